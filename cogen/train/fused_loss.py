"""Head and cross-entropy in one pass over the logits of a chunk: liger-kernel's, on CUDA, where it is installed.

`chunked_loss` needs about six passes of its own over the logits, in float32.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

import torch

from cogen.config import Train
from cogen.data.pack import IGNORE
from cogen.train.loss import Chunk, chunked_loss

if TYPE_CHECKING:
    from torch import Tensor


class HeadLoss(Protocol):
    """Mean cross-entropy of the predicted tokens, in nats, of `hidden (N, d)`, `weight (V, d)` and targets `(N,)`."""

    def __call__(self, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor: ...


def head_loss(device: torch.device, settings: Train, chunk: Chunk) -> HeadLoss:
    """The fused loss where it can be had and `train.fused_loss` does not forbid it, else the chunked one.

    Args:
        chunk: for the chunked loss.
    """
    if can_fuse(device, settings.fused_loss):
        return fused_loss
    return partial(chunked_loss, chunk_tokens=settings.head_chunk_tokens, chunk=chunk)


def can_fuse(device: torch.device, wanted: str) -> bool:
    """Whether `fused_loss` works on this device; wanted is "auto" or "off"."""
    return wanted != "off" and device.type == "cuda" and find_spec("liger_kernel") is not None


def fused_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """What `chunked_loss` computes; the kernel cuts the tokens so that its logits take no more than `hidden`.

    Source: Hsu et al., Liger Kernel (arXiv 2410.10989).
    """
    from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

    summed = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORE, reduction="sum")(weight, hidden, targets)
    mean: Tensor = summed / (targets != IGNORE).sum().clamp_min(1)  # the kernel's own mean divides by 0
    return mean
