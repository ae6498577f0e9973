"""A gated feed-forward with LoRA as one step: y = down(silu(gate(x)) * up(x)).

Of the wide arrays only gate(x) and up(x) are kept; their product is computed again in the backward.
Legend: N tokens, d hidden size, m intermediate size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from cogen.train.fast import kernels
from cogen.train.fast.frozen import Frozen, Rows
from cogen.train.fast.linear import Lora, backward, forward

if TYPE_CHECKING:
    from torch import Tensor

Layers = Sequence[tuple[Frozen, float]]  # of gate, up and down


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: Layers, rows: Rows | None, *factors: Tensor) -> Tensor:
        gate_lora, up_lora, down_lora = _loras(layers, factors)
        gate, h_gate = forward(layers[0][0], gate_lora, x, rows)
        up, h_up = forward(layers[1][0], up_lora, x, rows)
        inner = _swiglu(gate, up)
        y, h_down = forward(layers[2][0], down_lora, inner)
        ctx.save_for_backward(x, gate, up, h_gate, h_up, h_down, *factors)
        ctx.layers = layers
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, up, h_gate, h_up, h_down, *factors = ctx.saved_tensors
        gate_lora, up_lora, down_lora = _loras(ctx.layers, factors)
        (gate_weight, _), (up_weight, _), (down_weight, _) = ctx.layers
        inner = _swiglu(gate, up)
        d_inner, *d_down = backward(down_weight, down_lora, grads[0].contiguous(), inner, h_down)
        gate_g, up_g = inner, torch.empty_like(up)
        kernels.swiglu_backward(d_inner.numpy(), gate.numpy(), up.numpy(), gate_g.numpy(), up_g.numpy())
        dx, *d_gate = backward(gate_weight, gate_lora, gate_g, x, h_gate)
        dx_up, *d_up = backward(up_weight, up_lora, up_g, x, h_up)
        return dx.add_(dx_up), None, None, *d_gate, *d_up, *d_down


def feed_forward(x: Tensor, layers: Layers, factors: tuple[Tensor, ...], rows: Rows | None = None) -> Tensor:
    """down(silu(gate(x)) * up(x)) `(N, d)`, differentiable in x and in the LoRA factors.

    Args:
        x: `(N, d)`.
        layers: weight and scaling of gate, up and down.
        factors: A and B of gate, up and down, six in all.
        rows: x rounded, if that is known already.
    """
    y: Tensor = _FeedForward.apply(x, layers, rows, *factors)
    return y


def _loras(layers: Layers, factors: Any) -> list[Lora]:
    return [Lora(factors[2 * i], factors[2 * i + 1], scaling) for i, (_, scaling) in enumerate(layers)]


def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    out = torch.empty_like(gate)
    kernels.swiglu(gate.numpy(), up.numpy(), out.numpy())
    return out
