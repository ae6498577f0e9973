"""Documents packed into one row against the same documents alone, in transformers' own eager attention.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from cogen.adapter import Factors
from cogen.base import Base
from cogen.data.pack import IGNORE, Batch
from cogen.train.attention import segment_attention
from cogen.train.fast.training import fast_training
from cogen.train.isolation import use_segment_attention
from cogen.train.lora import attached
from cogen.train.loss import chunked_loss, head_weight
from cogen.train.step import hidden_states

LENGTHS = [(7, 7, 7), (16,), (1, 9, 4), (5, 1, 1, 6), (1, 1, 1), (1,), (2, 11)]


@pytest.fixture(scope="module")
def stock(tiny_folder: Path) -> Any:
    """The tiny base once more, as transformers alone loads and runs it."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval().requires_grad_(False)


def documents(lengths: Sequence[int], seed: int = 0, vocabulary: int = 512) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, vocabulary, n) for n in lengths]


def pack(texts: Sequence[np.ndarray]) -> Batch:
    targets = [np.append(t[1:], IGNORE) for t in texts]
    return Batch(np.concatenate(texts), np.concatenate(targets), tuple(len(t) for t in texts))


def segments_of(model: Any, texts: Sequence[np.ndarray]) -> list[Tensor]:
    """Hidden states of each document out of one packed row."""
    use_segment_attention(model)
    with torch.no_grad():
        return list(hidden_states(model, pack(texts)).split([len(t) for t in texts]))


@torch.no_grad()
def alone(model: Any, text: np.ndarray) -> Tensor:
    out: Tensor = model.get_decoder()(input_ids=torch.from_numpy(text)[None], use_cache=False).last_hidden_state[0]
    return out


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_each_document_is_as_if_alone(tiny: Base, stock: Any, lengths: tuple[int, ...]) -> None:
    """Red: is_causal=False; or one call over the whole row, without splitting it."""
    texts = documents(lengths)
    for text, packed in zip(texts, segments_of(tiny.model, texts), strict=True):
        torch.testing.assert_close(packed, alone(stock, text), rtol=1e-5, atol=2e-5)
        with torch.no_grad():
            expected = stock(input_ids=torch.from_numpy(text)[None]).logits[0]
        torch.testing.assert_close(packed @ head_weight(tiny.model).T, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("lengths", [(8, 8), (5, 11)], ids=str)
def test_a_document_sees_no_other(tiny: Base, lengths: tuple[int, ...]) -> None:
    """Red: attend over the whole row; the second document then changes, and the first stays."""
    first, second = documents(lengths)
    other = documents(lengths, seed=1)[0]
    before, after = segments_of(tiny.model, [first, second]), segments_of(tiny.model, [other, second])
    assert torch.equal(before[1], after[1])
    assert not torch.allclose(before[0], after[0], atol=0.1)
    swapped = segments_of(tiny.model, [second, first])
    torch.testing.assert_close(swapped[0], before[1], rtol=1e-5, atol=2e-5)


def test_positions_start_at_0_in_every_segment(tiny: Base) -> None:
    seen: dict[str, Any] = {}
    hook = tiny.model.get_decoder().register_forward_pre_hook(lambda _m, _a, kw: seen.update(kw), with_kwargs=True)
    try:
        segments_of(tiny.model, documents((3, 1, 4)))
    finally:
        hook.remove()
    assert seen["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1, 2, 3]]


@pytest.mark.parametrize("lengths", [(6, 6), (4, 1, 7)], ids=str)
def test_learned_positions_start_afresh(lengths: tuple[int, ...]) -> None:
    """Rotary positions are relative, so only a model with learned ones feels a position that ran on.

    Red: hidden_states counts positions through the row.
    """
    torch.manual_seed(0)
    sizes: Any = {"vocab_size": 64, "n_positions": 16, "n_embd": 24, "n_layer": 2, "n_head": 2}
    model: Any = GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.2)).eval()
    texts = documents(lengths, vocabulary=64)
    model.set_attn_implementation("eager")
    expected = [alone(model, t) for t in texts]
    for packed, single in zip(segments_of(model, texts), expected, strict=True):
        torch.testing.assert_close(packed, single, rtol=1e-5, atol=2e-5)


def random_factors(modules: dict[str, tuple[int, int]], seed: int) -> dict[str, Factors]:
    g = torch.Generator().manual_seed(seed)
    return {
        n: Factors(torch.randn(3, i, generator=g) * 0.2, torch.randn(o, 3, generator=g) * 0.2, 0.5)
        for n, (o, i) in modules.items()
    }


@pytest.mark.parametrize("lengths", [(8, 8), (1, 9, 4), (13, 2)], ids=str)
def test_gradients_are_those_of_the_documents_summed(tiny: Base, stock: Any, lengths: tuple[int, ...]) -> None:
    """d/dA and d/dB of the mean loss of a packed row = sum over documents of sum-loss / all predicted tokens.

    Red: dividing by all tokens instead of the predicted ones in the chunked loss.
    """
    factors = random_factors(dict(tiny.info.modules), seed=2)
    texts = documents(lengths)
    batch = pack(texts)
    use_segment_attention(tiny.model)
    with attached(tiny.model, factors) as live:
        hidden = hidden_states(tiny.model, batch)
        loss = chunked_loss(hidden, head_weight(tiny.model), torch.from_numpy(batch.targets), 5)
        loss.backward()
        grads = {n: (a.grad.clone(), b.grad.clone()) for n, (a, b) in live.items()}

    leaves = {n: (f.a.clone().requires_grad_(), f.b.clone().requires_grad_()) for n, f in factors.items()}
    weights = dict(stock.named_parameters())
    changed = {f"{n}.weight": weights[f"{n}.weight"] + 0.5 * b @ a for n, (a, b) in leaves.items()}
    total = torch.zeros(())
    for text in texts:
        ids = torch.from_numpy(text)
        if len(ids) > 1:
            logits = functional_call(stock, changed, kwargs={"input_ids": ids[None]}).logits[0]
            total = total + cross_entropy(logits[:-1], ids[1:], reduction="sum")
    mean = total / sum(n - 1 for n in lengths)
    mean.backward()
    torch.testing.assert_close(loss.detach(), mean.detach(), rtol=1e-5, atol=1e-6)
    for name, (a, b) in leaves.items():
        assert a.grad is not None and b.grad is not None and a.grad.abs().max() > 1e-4
        for mine, theirs in zip(grads[name], (a.grad, b.grad), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("lengths", [(8, 8), (3, 13), (1, 6, 9)], ids=str)
def test_a_window_holds_in_every_segment(lengths: tuple[int, ...]) -> None:
    """A token attends to `sliding_window` tokens, its own among them. Red: a window of one token more."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, 16, 4) for heads in (4, 2, 2))
    found, _ = segment_attention(torch.nn.Identity(), q, k, v, None, segment_lengths=lengths, sliding_window=5)
    start = 0
    for length in lengths:
        for i in range(start, start + length):
            seen = slice(max(start, i - 4), i + 1)
            for head in range(4):
                scores = k[0, head // 2, seen] @ q[0, head, i] / 2.0
                expected = torch.softmax(scores, 0) @ v[0, head // 2, seen]
                torch.testing.assert_close(found[0, i, head], expected, rtol=1e-5, atol=1e-6)
        start += length


@pytest.mark.parametrize("kernels", ["off", "fused"])
def test_a_model_with_a_window_trains_beyond_it(kernels: str) -> None:
    """Red: `sliding_window` ignored, by either attention."""
    torch.manual_seed(0)
    sizes: Any = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    heads: Any = {"num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 6}
    model: Any = MistralForCausalLM(MistralConfig(**sizes, **heads, attn_implementation="eager")).eval()
    texts = documents((9, 5, 14), vocabulary=64)
    expected = [alone(model, t) for t in texts]
    factors = {"model.layers.0.self_attn.q_proj": Factors(torch.zeros(1, 16), torch.zeros(16, 1), 1.0)}
    with attached(model, factors), fast_training(model, kernels), torch.no_grad():
        if kernels == "off":
            use_segment_attention(model)
        found = hidden_states(model, pack(texts)).split([len(t) for t in texts])
    for packed, single in zip(found, expected, strict=True):
        torch.testing.assert_close(packed, single, rtol=1e-5, atol=2e-5)
