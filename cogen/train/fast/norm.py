"""RMSNorm and rotary positions, each in one pass over memory in each direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cogen.train.fast import kernels

if TYPE_CHECKING:
    from torch import Tensor


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        y, inverse = torch.empty_like(x), x.new_empty(len(x))
        arrays = (x.detach().numpy(), weight.detach().numpy())
        kernels.rms_norm(*arrays, np.float32(epsilon), y.numpy(), inverse.numpy())
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        dx = torch.empty_like(grads[0], memory_format=torch.contiguous_format)
        kernels.rms_norm_backward(
            grads[0].contiguous().numpy(), *(t.detach().numpy() for t in ctx.saved_tensors), dx.numpy()
        )
        return dx, None, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, sin, -1.0), None, None


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight by row of `x (N, d)`; weight is frozen."""
    y: Tensor = _RmsNorm.apply(x.contiguous(), weight, epsilon)
    return y


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (arXiv 2104.09864) on `x (N, H, D)`, halves of D paired; cos and sin are `(N, D)`."""
    y: Tensor = _Rotate.apply(x, cos, sin)
    return y


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    x = x.detach().contiguous()
    out = torch.empty_like(x)
    kernels.rotate(x.numpy(), cos.numpy(), sin.numpy(), np.float32(sign), out.numpy())
    return out
