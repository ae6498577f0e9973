"""A frozen linear layer with LoRA as one step: nothing the size of the output is written beside the output.

y = x W^T + bias + s h B^T with h = x A^T, the last product added in place. Backward, with u = s g B:
dA = u^T x, dB = s g^T h, dx = g W + u A. W gets no gradient. PEFT's own layer writes B's product,
s times it and the sum to memory of their own, in both directions.

Order of products by RunLoRA (arXiv 2312.03415): for r far below d the two thin products go first.
Legend: N tokens, k inputs, n outputs, r rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from cogen.train.fast.frozen import Frozen, Rows

if TYPE_CHECKING:
    from torch import Tensor


class Lora(NamedTuple):
    """`a (r, k)`, `b (n, r)` and the factor before B A."""

    a: Tensor
    b: Tensor
    scaling: float


def forward(frozen: Frozen, lora: Lora, x: Tensor, rows: Rows | None = None) -> tuple[Tensor, Tensor]:
    """y `(N, n)` and h = x A^T `(N, r)`; `rows` is x rounded, if that is known already."""
    y = frozen.forward(x, rows)
    h = x @ lora.a.T
    return y.addmm_(h, lora.b.T, alpha=lora.scaling), h


def backward(frozen: Frozen, lora: Lora, g: Tensor, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """dx `(N, k)`, dA and dB for the gradient `g (N, n)` of y."""
    u = (g @ lora.b).mul_(lora.scaling)
    dx = frozen.backward(g).addmm_(u, lora.a)
    db = (h.T @ g).mul_(lora.scaling).T.contiguous()
    return dx, u.T @ x, db


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        scaling: float,
        frozen: Frozen,
        bias: Tensor | None,
        rows: Rows | None,
    ) -> Tensor:
        y, h = forward(frozen, Lora(a, b, scaling), x, rows)
        ctx.save_for_backward(x, a, b, h)
        ctx.scaling, ctx.frozen = scaling, frozen
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, h = ctx.saved_tensors
        dx, da, db = backward(ctx.frozen, Lora(a, b, ctx.scaling), grads[0].contiguous(), x, h)
        return dx, da, db, None, None, None, None


def lora_linear(x: Tensor, lora: Lora, frozen: Frozen, bias: Tensor | None = None, rows: Rows | None = None) -> Tensor:
    """y = x W^T + bias + scaling (x A^T) B^T `(N, n)`, differentiable in x, A and B.

    Args:
        x: `(N, k)`.
        rows: x rounded, if that is known already.
    """
    y: Tensor = _LoraLinear.apply(x, *lora, frozen, bias, rows)
    return y
