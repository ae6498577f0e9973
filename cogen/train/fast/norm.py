"""RMSNorm and rotary positions, each in one pass over memory in each direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cogen.train.fast import kernels
from cogen.train.fast.kernels import array

if TYPE_CHECKING:
    from torch import Tensor


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        y, inverse = torch.empty_like(x, dtype=dtype), x.new_empty(len(x))
        kernels.rms_norm(array(x), array(weight), np.float32(epsilon), array(y), array(inverse))
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        x, weight, inverse = ctx.saved_tensors
        dx = torch.empty_like(x)
        kernels.rms_norm_backward(array(grads[0].contiguous()), array(x), array(weight), array(inverse), array(dx))
        return dx, None, None, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(grads[0], cos, sin, -1.0), None, None


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight by row of `x (N, d)`, in `dtype`; x and weight, frozen, are float32."""
    y: Tensor = _RmsNorm.apply(x.contiguous(), weight, epsilon, dtype)
    return y


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (arXiv 2104.09864) on `x (N, H, D)`, halves of D paired; cos and sin, float32, are `(N, D)`."""
    y: Tensor = _Rotate.apply(x, cos, sin)
    return y


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    x = x.detach().contiguous()
    out = torch.empty_like(x)
    kernels.rotate(array(x), array(cos), array(sin), np.float32(sign), array(out))
    return out
