"""Head and cross-entropy without an `(N, V)` tensor: in chunks, or fused by liger-kernel on CUDA.

Legend: N tokens, d hidden size, V vocabulary, C tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import torch

from cogen.config import Train
from cogen.data.pack import IGNORE
from cogen.errors import BaseModelError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

ChunkLoss = Callable[["Tensor", "Tensor", "Tensor"], tuple["Tensor", "Tensor"]]


def head_weight(model: PreTrainedModel) -> Tensor:
    """The weight of the output head `(V, d)`.

    Raises:
        BaseModelError: the head is more than one product (bias, soft-capping, scaled logits).
    """
    head = model.get_output_embeddings()
    extras = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    odd = [k for k in extras if getattr(model.config, k, None) not in (None, 1, 1.0)]
    if getattr(head, "bias", None) is not None:
        odd.append("a bias")
    if odd:
        raise BaseModelError(
            "cannot compute the loss in chunks",
            expected="a head that is one matrix product",
            got=odd[0],
            where=type(model).__name__,
            fix="Use a Llama-like base.",
        )
    weight: Tensor = head.weight
    return weight


class _ChunkedLoss(torch.autograd.Function):
    """Mean negative log-likelihood; the gradient of `hidden` is formed in the forward, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk_tokens: int, chunk: ChunkLoss
    ) -> Tensor:
        grad = torch.zeros_like(hidden)
        kept = (targets != IGNORE).nonzero().squeeze(1)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for rows in kept.split(chunk_tokens):
            nll, grad[rows] = chunk(hidden[rows], weight, targets[rows])
            total += nll.sum()
        grad.div_(max(len(kept), 1))
        ctx.save_for_backward(grad)
        return total / max(len(kept), 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grads[0].to(grad.dtype), None, None, None, None


def nll_and_gradient(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """-ln p `(C,)` of the targets, and the gradient of their sum in `hidden`, `(C, d)`: (softmax - one-hot) weight."""
    logits = (hidden @ weight.T).float()
    nll = _nll(logits, targets)
    logits.exp_()
    logits[torch.arange(len(targets), device=targets.device), targets] -= 1.0
    return nll, logits.to(weight.dtype) @ weight


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Per row, in nats; turns `logits` into log-probabilities in place."""
    logits.sub_(torch.logsumexp(logits, dim=1, keepdim=True))
    return -logits.gather(1, targets[:, None]).squeeze(1)


def chunked_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk_tokens: int, chunk: ChunkLoss = nll_and_gradient
) -> Tensor:
    """Mean cross-entropy of the predicted tokens, in nats, differentiable in `hidden` alone.

    Args:
        hidden: `(N, d)`.
        weight: `(V, d)`, frozen.
        targets: `(N,)`, IGNORE where nothing is predicted; those rows cost nothing.
        chunk_tokens: C; `(C, V)` logits exist at a time.
        chunk: a faster function with the results of `nll_and_gradient`.
    """
    loss: Tensor = _ChunkedLoss.apply(hidden, weight, targets, chunk_tokens, chunk)
    return loss


@torch.no_grad()
def chunked_nll(hidden: Tensor, weight: Tensor, targets: Tensor, chunk_tokens: int) -> Tensor:
    """Negative log-likelihood `(N,)` of each target, in nats, float32; 0 where the target is IGNORE."""
    out = torch.zeros(len(targets), dtype=torch.float32, device=hidden.device)
    kept = (targets != IGNORE).nonzero().squeeze(1)
    for rows in kept.split(chunk_tokens):
        out[rows] = _nll((hidden[rows] @ weight.T).float(), targets[rows])
    return out


class HeadLoss(Protocol):
    """Mean cross-entropy of the predicted tokens, in nats, of `hidden (N, d)`, `weight (V, d)` and targets `(N,)`."""

    def __call__(self, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor: ...


def head_loss(device: torch.device, settings: Train, chunk: ChunkLoss) -> HeadLoss:
    """The fused loss if the device and `train.fused_loss` allow it, else the chunked one with `chunk`."""
    if can_fuse(device, settings.fused_loss):
        return fused_loss
    return partial(chunked_loss, chunk_tokens=settings.head_chunk_tokens, chunk=chunk)


def can_fuse(device: torch.device, wanted: str) -> bool:
    """Whether to use `fused_loss` on this device; `wanted` is "auto" or "off"."""
    return wanted != "off" and device.type == "cuda" and find_spec("liger_kernel") is not None


def fused_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The loss of `chunked_loss` in one kernel, whose logits take no more memory than `hidden`.

    `chunked_loss` takes about six passes over the logits in float32 instead.

    Source: Hsu et al., Liger Kernel (arXiv 2410.10989).
    """
    from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

    summed = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORE, reduction="sum")(weight, hidden, targets)
    mean: Tensor = summed / (targets != IGNORE).sum().clamp_min(1)  # the kernel's own mean divides by 0
    return mean
