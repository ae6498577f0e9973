"""Gradient accumulation and checkpointing against one plain step: equal gradients, fewer bytes kept for the backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from cogen.adapter import Factors
from cogen.base import Base
from cogen.config import Train
from cogen.data.pack import IGNORE, Batch
from cogen.errors import BaseModelError
from cogen.train.isolation import use_segment_attention
from cogen.train.lora import attached
from cogen.train.memory import gradient_checkpointing
from cogen.train.step import Stepper, make_accelerator

SETTINGS = Train(sequence_length=8, rank=3)
LENGTHS = ((40, 8), (5, 3, 20, 20), (1, 1, 2, 44), (24, 24))


def batch(lengths: Sequence[int], seed: int) -> Batch:
    """Segments whose counts of targets differ much from batch to batch."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 512, sum(lengths))
    targets = np.roll(tokens, -1)
    targets[np.cumsum(lengths) - 1] = IGNORE
    targets[: 9 * seed] = IGNORE
    return Batch(tokens, targets, tuple(lengths))


def joined(parts: Sequence[Batch]) -> Batch:
    return Batch(
        np.concatenate([p.tokens for p in parts]),
        np.concatenate([p.targets for p in parts]),
        tuple(n for p in parts for n in p.lengths),
    )


class Recorder:
    """An optimiser that keeps the gradients instead of stepping."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters)}]
        self.found: list[torch.Tensor] = []

    def step(self) -> None:
        self.found = [p.grad.clone() for p in self.param_groups[0]["params"]]

    def zero_grad(self) -> None:
        for p in self.param_groups[0]["params"]:
            p.grad = None


@contextmanager
def bytes_kept(peak: list[int]) -> Iterator[None]:
    """The most bytes that autograd keeps at a time for the backward pass, each storage once."""
    held: dict[int, list[int]] = {}

    class Kept:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor, storage = tensor, tensor.untyped_storage()
            self.key = storage.data_ptr()
            held.setdefault(self.key, [0, storage.nbytes()])[0] += 1
            peak[0] = max(peak[0], sum(size for _, size in held.values()))

        def __del__(self) -> None:
            held[self.key][0] -= 1
            if not held[self.key][0]:
                del held[self.key]

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        yield


def gradients(base: Base, parts: Sequence[Batch], anew: bool = False) -> tuple[list[torch.Tensor], float, int]:
    g = torch.Generator().manual_seed(0)
    factors = {
        n: Factors(torch.randn(3, i, generator=g) * 0.2, torch.randn(o, 3, generator=g) * 0.2, 1.0)
        for n, (o, i) in base.info.modules.items()
    }
    peak = [0]
    use_segment_attention(base.model)
    settings = SETTINGS.model_copy(update={"max_grad_norm": float("inf")})
    with attached(base.model, factors) as live, gradient_checkpointing(base.model, anew), bytes_kept(peak):
        recorder = Recorder([p for pair in live.values() for p in pair])
        loss = Stepper(base.model, settings, make_accelerator(), recorder).step(parts, 0.1)
    return recorder.found, loss, peak[0]


def test_parts_have_the_gradient_of_the_whole(tiny: Base) -> None:
    """Red: the mean of the parts' means; the sum of their means; gradients cleared between parts."""
    parts = [batch(lengths, seed) for seed, lengths in enumerate(LENGTHS)]
    assert len({p.num_predicted for p in parts}) == 4
    whole, loss, _ = gradients(tiny, [joined(parts)])
    found, summed, _ = gradients(tiny, parts)
    assert summed == pytest.approx(loss, rel=1e-6)
    for mine, theirs in zip(found, whole, strict=True):
        assert float(theirs.norm()) > 1e-3
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_a_part_without_targets_weighs_nothing(tiny: Base) -> None:
    full = batch((24, 24), 0)
    empty = Batch(full.tokens, np.full_like(full.targets, IGNORE), full.lengths)
    mine, loss, _ = gradients(tiny, [full, empty])
    theirs, alone, _ = gradients(tiny, [full])
    assert loss == alone and all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert gradients(tiny, [empty])[1] == 0.0


def test_parts_keep_fewer_bytes(tiny: Base) -> None:
    """Four equal parts: about a quarter of the activations. Red: losses summed before one backward."""
    parts = [batch((48,), 0)] * 4
    whole, split = gradients(tiny, [joined(parts)])[2], gradients(tiny, parts)[2]
    assert split < 0.4 * whole


def test_checkpointed_gradients_are_equal_and_keep_fewer_bytes(tiny: Base) -> None:
    """Two layers: one at a time is kept. Red: the layers' forward left as it is."""
    parts = [batch((40, 8), 0), batch((5, 3, 20, 20), 1)]
    plain, loss, kept = gradients(tiny, parts)
    anew, same, fewer = gradients(tiny, parts, anew=True)
    assert same == loss and all(torch.equal(a, b) for a, b in zip(anew, plain, strict=True))
    assert fewer < 0.75 * kept


def test_gradient_checkpointing_leaves_the_model_unchanged(tiny: Base) -> None:
    layer = tiny.model.get_decoder().layers[0]
    with gradient_checkpointing(tiny.model, True):
        assert "forward" in vars(layer)
    assert not any("forward" in vars(m) or m.training for m in tiny.model.modules())


def test_an_architecture_without_it_is_refused(tiny: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(tiny.model), "supports_gradient_checkpointing", False)
    with (
        pytest.raises(BaseModelError, match=r"Leave train\.gradient_checkpointing off"),
        gradient_checkpointing(tiny.model, True),
    ):
        pass
