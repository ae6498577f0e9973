"""Attention inside every document of a row in one kernel on CUDA: torch's variable-length flash attention.

A loop over documents would start one kernel for each, too small to fill a GPU.
Legend: N tokens of all segments, H heads, D head size.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

AMPERE = (8, 0)  # flash attention needs it
MAX_HEAD = 192  # the backward pass takes 256 on the largest GPUs alone


def is_for_one_kernel(query: Tensor) -> bool:
    """Whether `varlen_attention` can be used: half precision, on a GPU that this torch has the kernel for."""
    return query.is_cuda and fits_kernel(query.dtype, query.shape[-1]) and _has_kernel(query.device)


def fits_kernel(dtype: torch.dtype, head_size: int) -> bool:
    """Whether the kernel supports this dtype and head size."""
    return dtype.is_floating_point and dtype.itemsize == 2 and head_size % 8 == 0 and head_size <= MAX_HEAD


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    scaling: float | None,
    sliding_window: int | None = None,
) -> Tensor:
    """Causal attention inside each segment; `query (1, H, N, D)` to `(1, N, H, D)`, fewer heads for keys allowed."""
    from torch.nn.attention.varlen import varlen_attn

    edges, longest = _edges(lengths, query.device), max(lengths)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    before = -1 if sliding_window is None else sliding_window - 1  # -1 is all tokens before
    window = (before, 0)
    out = varlen_attn(q, k, v, edges, edges, longest, longest, scale=scaling, window_size=window, enable_gqa=True)
    assert not isinstance(out, tuple)
    return out[None]


@lru_cache(maxsize=8)
def _edges(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """The starts of the segments and the end of the last one; cached, since every layer of a pass needs them."""
    import torch

    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


@lru_cache
def _has_kernel(device: torch.device) -> bool:
    import inspect

    import torch

    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # before torch 2.10
        return False
    takes_groups = "enable_gqa" in inspect.signature(varlen_attn).parameters
    built = torch.version.hip is None and torch.backends.cuda.is_flash_attention_available()
    return takes_groups and built and torch.cuda.get_device_capability(device) >= AMPERE
