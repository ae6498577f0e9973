"""A gated feed-forward with LoRA as one step: y = down(silu(gate(x)) * up(x)).

Legend: N tokens, d hidden size, m intermediate size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from cogen.train.fast import kernels
from cogen.train.fast.arrays import array
from cogen.train.fast.frozen import Frozen, Rows
from cogen.train.fast.linear import Lora, backward, forward

if TYPE_CHECKING:
    from torch import Tensor

Layers = Sequence[tuple[Frozen, Lora]]  # of gate, up and down


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
        rows: x rounded, if that is known already.
    """
    y: Tensor = _FeedForward.apply(x, layers, rows, *trained)
    return y
