"""A frozen linear layer, or a gated feed-forward, with LoRA as one step: only the output itself is written to memory.

y = x W^T + bias + s h B^T with h = x A^T. Backward, with u = s g B:
dA = u^T x, dB = s g^T h, dx = g W + u A. W gets no gradient. PEFT's layer also writes the product with B, its
multiple by s and the sum to memory, in both directions.

Everything is in the precision of the frozen weight except A and B, which are float32 and rounded for the products.
Order of products by RunLoRA (arXiv 2312.03415): for r far below d the two thin products go first.
Legend: N tokens, k inputs, n outputs, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from cogen.train.fast import kernels
from cogen.train.fast.frozen import Frozen, Rows
from cogen.train.fast.kernels import array

if TYPE_CHECKING:
    from torch import Tensor


class Lora(NamedTuple):
    """Factors prepared for the products, in the precision of the weight; they get no gradient themselves.

    Args:
        a: `(r, k)`.
        scaled_b: s B `(n, r)`.
        scaling: s.
    """

    a: Tensor
    scaled_b: Tensor
    scaling: float

    @classmethod
    def of(cls, a: Tensor, b: Tensor, scaling: float, dtype: torch.dtype) -> Lora:
        """From the trained A and B, float32."""
        return cls(a.detach().to(dtype), (scaling * b.detach()).to(dtype), scaling)


Layers = Sequence[tuple[Frozen, Lora]]  # of gate, up and down


def forward(frozen: Frozen, lora: Lora, x: Tensor, rows: Rows | None = None) -> tuple[Tensor, Tensor]:
    """y `(N, n)` and h = x A^T `(N, r)`; `rows` is x rounded, if that is known already."""
    h = x @ lora.a.T
    return frozen.forward(x, h, lora.scaled_b, rows), h


def backward(
    frozen: Frozen, lora: Lora, g: Tensor, x: Tensor, h: Tensor, more: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """dx `(N, k)`, dA and dB, float32, for the gradient `g (N, n)` of y; `more` is added to dx."""
    u = g @ lora.scaled_b
    dx = frozen.backward(g, u, lora.a, more)
    return dx, (u.T @ x).float(), (h.T @ g).T.float().mul_(lora.scaling)


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        lora: Lora,
        frozen: Frozen,
        bias: Tensor | None,
        rows: Rows | None,
    ) -> Tensor:
        y, h = forward(frozen, lora, x, rows)
        ctx.save_for_backward(x, h)
        ctx.lora, ctx.frozen = lora, frozen
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, h = ctx.saved_tensors
        dx, da, db = backward(ctx.frozen, ctx.lora, grads[0].contiguous(), x, h)
        return dx, da, db, None, None, None, None


def lora_linear(
    x: Tensor,
    trained: tuple[Tensor, Tensor],
    lora: Lora,
    frozen: Frozen,
    bias: Tensor | None = None,
    rows: Rows | None = None,
) -> Tensor:
    """y = x W^T + bias + scaling (x A^T) B^T `(N, n)`, differentiable in x, A and B.

    Args:
        x: `(N, k)`, in the precision of the weight.
        trained: A and B, which get the gradients.
        lora: the same factors, prepared for the products.
        rows: x rounded, if it is known already.
    """
    y: Tensor = _LoraLinear.apply(x, *trained, lora, frozen, bias, rows)
    return y


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: Layers, rows: Rows | None, *trained: Tensor) -> Tensor:
        gate, gate_h = forward(*layers[0], x, rows)
        up, up_h = forward(*layers[1], x, rows)
        inner = torch.empty_like(gate)
        kernels.swiglu(array(gate), array(up), array(inner))
        y, down_h = forward(*layers[2], inner)
        ctx.save_for_backward(x, gate, up, inner, gate_h, up_h, down_h)
        ctx.layers = layers
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, up, inner, gate_h, up_h, down_h = ctx.saved_tensors
        layers: Layers = ctx.layers
        d_inner, *d_down = backward(*layers[2], grads[0].contiguous(), inner, down_h)
        gate_g, up_g = torch.empty_like(gate), torch.empty_like(up)
        kernels.swiglu_backward(array(d_inner), array(gate), array(up), array(gate_g), array(up_g))
        dx, *d_gate = backward(*layers[0], gate_g, x, gate_h)
        dx, *d_up = backward(*layers[1], up_g, x, up_h, dx)
        return dx, None, None, *d_gate, *d_up, *d_down


def feed_forward(x: Tensor, layers: Layers, trained: Sequence[Tensor], rows: Rows | None = None) -> Tensor:
    """down(silu(gate(x)) * up(x)) `(N, d)`, differentiable in x and in the LoRA factors.

    Args:
        x: `(N, d)`, in the precision of the weights.
        layers: weight and factors of gate, up and down.
        trained: A and B of gate, up and down, six in all, which get the gradients.
        rows: x rounded, if it is known already.
    """
    y: Tensor = _FeedForward.apply(x, layers, rows, *trained)
    return y
