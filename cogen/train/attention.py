"""Attention that restarts at each document boundary, plugged into transformers by name.

Segments are end to end in one row, and each gets causal attention of its own: no mask is built, and no score
between documents is computed. A variable-length kernel does it in one call if there is one; otherwise each segment
takes a call.
Legend: N tokens of all segments, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cogen.train.varlen import is_for_one_kernel, varlen_attention

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

NAME, WATCHED = "cogen_segments", "cogen_segments_watched"
# Arguments of attention that change nothing here, or that `segment_attention` follows.
KNOWN = frozenset(
    (
        "segment_lengths",
        "scaling",
        "dropout",
        "sliding_window",
        "is_causal",
        "position_ids",
        "use_cache",
        "cache_position",
    )
)


class Unpacked(Exception):
    """Says in which way the attention of a model is more than causal attention with a window."""


@contextmanager
def watched_segments(model: PreTrainedModel) -> Iterator[None]:
    """Use segment attention until another one is set; raises Unpacked where a layer asks for what it would ignore.

    Masks are watched too, since some architectures describe a window or chunks by the mask alone.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, segment_attention)
    AttentionInterface.register(WATCHED, _watched_attention)
    AttentionMaskInterface.register(WATCHED, _window_as_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(WATCHED)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _window_as_mask(
    batch_size: int, q_length: int, kv_length: int, *, local_size: int | None = None, use_vmap: bool = False, **_: Any
) -> Tensor:
    """A mask of the usual shape that only says the window; 0 for none."""
    import torch

    if use_vmap:
        raise Unpacked("its attention mask is more than causal")
    return torch.full((batch_size, 1, q_length, kv_length), local_size or 0, dtype=torch.int32)


def _watched_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    import torch

    odd = [name for name, value in given.items() if name not in KNOWN and value is not None and value is not False]
    if odd or given.get("is_causal") is False:
        raise Unpacked(f"its attention takes {', '.join(odd) or 'no order of tokens'}")
    if attention_mask is not None and attention_mask.dtype != torch.int32:
        raise Unpacked("it makes its own attention mask")
    window = 0 if attention_mask is None else int(attention_mask.flatten()[0])
    if window != (given.get("sliding_window") or 0):
        raise Unpacked("its attention mask has a window that its layers do not name")
    return segment_attention(module, query, key, value, None, **given)


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

    Args:
        sliding_window: a token attends to this many tokens, its own among them; None for all before it.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    if is_for_one_kernel(query) and dropout == 0.0:
        return varlen_attention(query, key, value, segment_lengths, scaling, sliding_window), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if len(set(segment_lengths)) == 1:
        num, length = len(segment_lengths), segment_lengths[0]
        q, k, v = (x.squeeze(0).unflatten(1, (num, length)).transpose(0, 1) for x in (query, key, value))
        how = causal_within(sliding_window, length, query.device)
        out = scaled_dot_product_attention(q, k, v, **how, scale=scaling, dropout_p=dropout)
        return out.transpose(1, 2).reshape(1, num * length, *out.shape[1:2], out.shape[3]), None
    pieces = zip(*(x.split(segment_lengths, dim=2) for x in (query, key, value)), strict=True)
    outs = []
    for q, k, v in pieces:
        how = causal_within(sliding_window, q.shape[2], query.device)
        outs.append(scaled_dot_product_attention(q, k, v, **how, scale=scaling, dropout_p=dropout))
    return torch.cat(outs, dim=2).transpose(1, 2), None


def causal_within(sliding_window: int | None, length: int, device: torch.device) -> dict[str, Any]:
    """Arguments of torch's attention for a segment: causal, and with a mask only where it is longer than the window."""
    if sliding_window is None or length <= sliding_window:
        return {"is_causal": True}
    return {"attn_mask": _band(sliding_window, length, device)}


@lru_cache(maxsize=16)
def _band(window: int, length: int, device: torch.device) -> Tensor:
    """`(length, length)`, true where a token attends; cached, since every layer of a pass needs it."""
    import torch

    allowed = torch.ones(length, length, dtype=torch.bool, device=device)
    return allowed.tril().triu(1 - window)
