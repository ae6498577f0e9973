"""Code that only runs on a GPU, as far as a CPU can test it: layouts, choices, refusals. The rest is in e2e/test_gpu.py.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import cogen.base
import cogen.train.attention
import cogen.train.loss
from cogen.adapter import Factors
from cogen.base import Base, four_bit_options, load_base
from cogen.config import Train
from cogen.data.pack import IGNORE
from cogen.errors import BaseModelError, FingerprintMismatch
from cogen.train.attention import segment_attention
from cogen.train.lora import attached, init_factors
from cogen.train.loss import can_fuse, chunked_loss, fused_loss, head_loss, nll_and_gradient
from cogen.train.varlen import fits_kernel, is_for_one_kernel, varlen_attention

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LENGTHS = [(7, 7), (1, 9, 4), (16,), (5, 1, 1, 6)]


def one_by_one(
    query: Tensor, key: Tensor, value: Tensor, edges: Tensor, key_edges: Tensor, *longest: int, **options: Any
) -> Tensor:
    """What `torch.nn.attention.varlen.varlen_attn` is documented to compute: softmax by segment and head."""
    assert options["window_size"] == (-1, 0) and options["enable_gqa"] and torch.equal(edges, key_edges)
    assert edges.dtype == torch.int32 and set(longest) == {int(edges.diff().max())}
    out = torch.empty_like(query)
    group, scale = query.shape[1] // key.shape[1], options["scale"] or query.shape[2] ** -0.5
    rows = []
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        for i in range(begin, end):
            seen = slice(begin, i + 1)
            heads = [
                ((query[i, h] @ key[seen, h // group].T) * scale).softmax(0) @ value[seen, h // group]
                for h in range(query.shape[1])
            ]
            rows.append(torch.stack(heads))
    return torch.stack(rows).to(out.dtype)


def attention_case(lengths: tuple[int, ...], num_key_heads: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, sum(lengths), 8) for heads in (4, num_key_heads, num_key_heads)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


@pytest.mark.parametrize("num_key_heads", [4, 2])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_one_kernel_is_a_call_for_each(
    monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...], num_key_heads: int
) -> None:
    """Outputs and gradients, by the kernel's own description. Red: heads and tokens swapped; edges without the 0."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", one_by_one)
    inputs = attention_case(lengths, num_key_heads)
    outer = torch.randn(1, sum(lengths), 4, 8, dtype=torch.float64)
    results = []
    for is_taken in (False, True):
        monkeypatch.setattr(cogen.train.attention, "is_for_one_kernel", lambda query, is_taken=is_taken: is_taken)
        out, _ = segment_attention(torch.nn.Identity(), *inputs, None, segment_lengths=lengths, scaling=0.3)
        results.append([out, *torch.autograd.grad(out, inputs, outer)])
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_torch_takes_the_call() -> None:
    """The real kernel's signature and shapes, forward and backward, without data. Red: enable_gqa dropped."""
    q = torch.empty(1, 4, 14, 8, dtype=torch.bfloat16, device="meta", requires_grad=True)
    k = torch.empty(1, 2, 14, 8, dtype=torch.bfloat16, device="meta", requires_grad=True)
    out = varlen_attention(q, k, k, (5, 9), 0.3)
    assert out.shape == (1, 14, 4, 8)
    grads = torch.autograd.grad(out, (q, k), torch.empty_like(out))
    assert [g.shape for g in grads] == [q.shape, k.shape]


def test_what_the_kernel_takes() -> None:
    """Red: heads of 12, which flash attention refuses; float32."""
    fitting = [(torch.bfloat16, 64), (torch.float16, 8), (torch.bfloat16, 192)]
    others = [(torch.float32, 64), (torch.bfloat16, 12), (torch.bfloat16, 256), (torch.int16, 64)]
    assert all(fits_kernel(*case) for case in fitting) and not any(fits_kernel(*case) for case in others)
    assert not is_for_one_kernel(torch.empty(1, 4, 14, 64, dtype=torch.bfloat16))


def loss_case() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(11, 6, generator=generator), torch.randn(37, 6, generator=generator)
    targets = torch.randint(0, 37, (11,), generator=generator)
    targets[[0, 4, 10]] = IGNORE
    return hidden.requires_grad_(), weight, targets


class Summed(torch.nn.Module):
    """liger-kernel's class, in plain torch."""

    def __init__(self, ignore_index: int, reduction: str) -> None:
        super().__init__()
        self.options: Any = {"ignore_index": ignore_index, "reduction": reduction}

    def forward(self, lin_weight: Tensor, _input: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(_input @ lin_weight.T, target, **self.options)


def test_the_fused_loss_is_the_chunked_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red: the mean over all tokens; the kernel's own mean, which is 0 / 0 where nothing is predicted."""
    name = "liger_kernel.transformers.fused_linear_cross_entropy"
    module = ModuleType(name)
    module.LigerFusedLinearCrossEntropyLoss = Summed  # type: ignore[attr-defined]
    for known in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, known, ModuleType(known))
    monkeypatch.setitem(sys.modules, name, module)
    hidden, weight, targets = loss_case()
    for wanted_targets in (targets, torch.full_like(targets, IGNORE)):
        losses = [fused_loss(hidden, weight, wanted_targets), chunked_loss(hidden, weight, wanted_targets, 4)]
        grads = [torch.autograd.grad(loss, hidden)[0] for loss in losses]
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("device", "installed", "wanted", "fuses"),
    [(CUDA, True, "auto", True), (CUDA, True, "off", False), (CUDA, False, "auto", False), (CPU, True, "auto", False)],
)
def test_which_loss_is_taken(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, installed: bool, wanted: str, fuses: bool
) -> None:
    """Red: taken wherever liger-kernel is installed."""
    monkeypatch.setattr(cogen.train.loss, "find_spec", lambda name: name if installed else None)
    assert can_fuse(device, wanted) == fuses
    chosen: Any = head_loss(device, Train(fused_loss=wanted, head_chunk_tokens=3), nll_and_gradient)  # type: ignore[arg-type]
    assert (chosen is fused_loss) == fuses
    if not fuses:
        assert isinstance(chosen, partial) and chosen.func is chunked_loss
        assert torch.equal(chosen(*loss_case()), chunked_loss(*loss_case(), 3))


def test_four_bits_need_a_gpu_and_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before the base is even looked for."""
    with pytest.raises(BaseModelError, match=r"expected a CUDA device, got cpu \(base.precision\)") as no_gpu:
        load_base("no-such-base", device="cpu", precision="nf4")
    monkeypatch.setattr(cogen.base, "find_spec", lambda name: None)
    with pytest.raises(BaseModelError, match=r"expected the package bitsandbytes, got none.*cogen-ai\[gpu\]") as none:
        four_bit_options(CUDA, torch.bfloat16)
    assert all("\n" not in str(error.value) for error in (no_gpu, none))


class Packed(torch.nn.Linear):
    """A linear layer whose weight lies packed in bytes, as bitsandbytes has it."""

    def __init__(self, d_out: int, d_in: int) -> None:
        super().__init__(d_in, d_out, bias=False)
        packed = torch.zeros(d_out * d_in // 2, 1, dtype=torch.uint8)
        self.weight: Any = torch.nn.Parameter(packed, requires_grad=False)


def test_factors_fit_packed_weights(tiny_folder: Path) -> None:
    """Red: the shape of the weight instead of the layer's own."""
    base = load_base(str(tiny_folder), device="cpu", precision="float32")
    layers: Any = base.model.get_decoder().layers
    layers[1].mlp.down_proj = Packed(32, 48)
    name = "model.layers.1.mlp.down_proj"
    factors = init_factors({name: (32, 48)}, 4, 2.0, 0)
    with attached(base.model, factors) as live:
        a, b = live[name]
        assert (a.dtype, b.dtype) == (torch.float32, torch.float32) and torch.equal(a.cpu(), factors[name].a)
    wrong = {name: Factors(torch.zeros(4, 1), torch.zeros(768, 4), 2.0)}
    with (
        pytest.raises(FingerprintMismatch, match=r"expected model.layers.1.mlp.down_proj \(32, 48\)"),
        attached(base.model, wrong),
    ):
        pass


def test_four_bits_are_another_precision(tiny: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """A saved state and scored documents are of one precision. Red: the dtype alone, which is that of the rest."""
    assert tiny.precision == "torch.float32"
    monkeypatch.setattr(tiny.model, "is_loaded_in_4bit", True, raising=False)
    assert replace(tiny).precision == "nf4"
