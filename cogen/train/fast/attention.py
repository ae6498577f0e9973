"""Causal attention by blocks of queries, on the CPU: no score of a future token is computed.

P = softmax(scaling Q K^T), O = P V; dV = P^T dO, dS = scaling P * (dP - rowsum(P * dP)) with dP = dO V^T, dQ = dS K,
dK = dS^T Q. Query heads that share a key head are rows of one matrix product, so keys are not repeated and
their gradients need no sum. P is kept for the backward pass. torch's own CPU kernel computes P again there, and is far
slower than matrix products.

Legend: N tokens of all segments, H query heads, G of them to each of H / G key heads, D head size,
m queries of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cogen.train.fast import kernels
from cogen.train.fast.kernels import array

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

BLOCK = 128


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lengths: tuple[int, ...],
        scaling: float,
        kept_as: torch.dtype,
    ) -> Tensor:
        group = len(query) // len(key)
        q, k, v = _by_key_head(query.transpose(0, 1), group), key.contiguous(), value.contiguous()
        out = query.new_empty(query.shape[1], len(query), query.shape[2])
        o = out.unflatten(1, (len(k), group)).transpose(0, 1)
        kept = []
        for first, start, end in _blocks(lengths):
            p = q[:, start * group : end * group] @ k[:, first:end].mT
            kernels.causal_softmax(array(p), np.float32(scaling), group, start - first)
            kept.append(p.to(kept_as))
            o[:, start:end] = (p @ v[:, first:end]).unflatten(1, (-1, group))
        ctx.save_for_backward(q, k, v, *kept)
        ctx.lengths, ctx.scaling = lengths, scaling
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        group = q.shape[1] // k.shape[1]
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        g = _by_key_head(grads[0], group)
        for (first, start, end), p_kept in zip(_blocks(ctx.lengths), kept, strict=True):
            p, rows = p_kept.to(q.dtype), slice(start * group, end * group)
            ds = g[:, rows] @ v[:, first:end].mT
            kernels.softmax_backward(array(ds), array(p), np.float32(ctx.scaling))
            dv[:, first:end].baddbmm_(p.mT, g[:, rows])
            dk[:, first:end].baddbmm_(ds.mT, q[:, rows])
            dq[:, rows] = ds @ k[:, first:end]
        by_token = dq.unflatten(1, (-1, group)).transpose(0, 1).flatten(1, 2)
        return by_token.transpose(0, 1), dk, dv, None, None, None


def _by_key_head(x: Tensor, group: int) -> Tensor:
    """`(N, H, D)` to `(H / G, N * G, D)`: the query heads of one token and one key head are adjacent rows."""
    by_head: Tensor = x.unflatten(1, (-1, group)).transpose(0, 1)
    return by_head.flatten(1, 2).contiguous()


def _blocks(lengths: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """For each block of queries: first token of its segment, first token of the block, end of the block."""
    first = 0
    for length in lengths:
        for start in range(first, first + length, BLOCK):
            yield first, start, min(start + BLOCK, first + length)
        first += length


def block_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    scaling: float,
    kept_as: torch.dtype = torch.float32,
) -> Tensor:
    """Causal attention inside each segment: `query (H, N, D)`, `key` and `value (H / G, N, D)` to `(N, H, D)`.

    Args:
        kept_as: precision in which P is kept for the backward pass; float16 halves the memory; gradients are then off by 5e-4.
    """
    out: Tensor = _BlockAttention.apply(query, key, value, lengths, scaling, kept_as)
    return out
