"""Attention that restarts at each document boundary, plugged into transformers by name.

Segments are end to end in one row, and each gets causal attention of its own: no mask is built, and no score
between documents is computed. A variable-length kernel does it in one call if there is one; otherwise each segment
takes a call.
Legend: N tokens of all segments, H heads, D head size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cogen.errors import BaseModelError
from cogen.train.varlen import is_for_one_kernel, varlen_attention

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

NAME = "cogen_segments"


def use_segment_attention(model: PreTrainedModel) -> None:
    """Switch `model` to segment attention; its forward then needs `segment_lengths`.

    Raises:
        BaseModelError: the attention of this architecture cannot be chosen by name.
    """
    from transformers import AttentionInterface

    if not getattr(model, "_supports_attention_backend", False) or not getattr(model, "_supports_sdpa", False):
        raise BaseModelError(
            "cannot restart attention at document boundaries",
            expected="an architecture with transformers' attention interface",
            got=type(model).__name__,
            fix="Use a Llama-like base.",
        )
    AttentionInterface.register(NAME, segment_attention)
    model.set_attn_implementation(NAME)


def use_stock_attention(model: PreTrainedModel) -> None:
    """Switch `model` back to torch's own attention, for forwards with a cache or a mask."""
    model.set_attn_implementation("sdpa")


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segment_lengths: tuple[int, ...],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each segment; `query (1, H, N, D)` to `(1, N, H, D)`.

    `key` and `value` may have fewer heads (grouped queries).

    Raises:
        BaseModelError: the model's sliding window is shorter than a segment.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    require_window(sliding_window, segment_lengths)
    if is_for_one_kernel(query) and dropout == 0.0:
        return varlen_attention(query, key, value, segment_lengths, scaling), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if len(set(segment_lengths)) == 1:
        num, length = len(segment_lengths), segment_lengths[0]
        q, k, v = (x.squeeze(0).unflatten(1, (num, length)).transpose(0, 1) for x in (query, key, value))
        out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, dropout_p=dropout)
        return out.transpose(1, 2).reshape(1, num * length, *out.shape[1:2], out.shape[3]), None
    pieces = zip(*(x.split(segment_lengths, dim=2) for x in (query, key, value)), strict=True)
    outs = [
        scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, dropout_p=dropout) for q, k, v in pieces
    ]
    return torch.cat(outs, dim=2).transpose(1, 2), None


def require_window(sliding_window: int | None, segment_lengths: tuple[int, ...]) -> None:
    """Raise BaseModelError if a segment is longer than the model's sliding window."""
    if sliding_window is not None and sliding_window < max(segment_lengths):
        raise BaseModelError(
            "cannot train with this block length",
            expected=f"segments within the sliding window of {sliding_window} tokens",
            got=f"{max(segment_lengths)} tokens",
            fix="Set train.sequence_length to the window or less.",
        )
