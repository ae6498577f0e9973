"""Tensors as the arrays that the kernels take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


def array(x: Tensor) -> Any:
    """The memory of a contiguous CPU tensor; bfloat16 as uint16, since numpy has no name for it."""
    x = x.detach()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()
