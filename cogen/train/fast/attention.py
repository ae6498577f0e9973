"""Causal attention by blocks of queries, on the CPU: no score of a future token is computed.

P = softmax(scaling Q K^T), O = P V; dV = P^T dO, dS = P * (dO V^T - rowsum(dO * O)), dQ = scaling dS K,
dK = scaling dS^T Q. Query heads that share a key head are rows of one product, so that keys
are not repeated and their gradients need no sum. P is kept for the backward, where torch's own CPU kernel
computes it again and runs far below the rate of matrix products.

Legend: N tokens of all segments, H query heads, G of them to each of H / G key heads, D head size,
m queries of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cogen.train.fast import kernels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

BLOCK = 64


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
        heads, tokens, size = query.shape
        q = (query * scaling).unflatten(0, (len(key), -1))
        out = query.new_empty(tokens, heads, size)
        o = out.permute(1, 0, 2).unflatten(0, (len(key), -1))
        kept = []
        for first, start, end in _blocks(lengths):
            p = q[:, :, start:end].flatten(1, 2) @ key[:, first:end].mT
            kernels.causal_softmax(p.numpy(), q.shape[1], start - first)
            kept.append(p.to(kept_as))
            o[:, :, start:end] = (p @ value[:, first:end]).unflatten(1, (-1, end - start))
        ctx.save_for_backward(q, key, value, out, *kept)
        ctx.lengths, ctx.scaling = lengths, scaling
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, key, value, out, *kept = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(key), torch.zeros_like(value)
        g = grads[0].permute(1, 0, 2).unflatten(0, q.shape[:2])
        along = torch.linalg.vecdot(grads[0], out).T.unflatten(0, q.shape[:2])
        for (first, start, end), p_kept in zip(_blocks(ctx.lengths), kept, strict=True):
            p = p_kept.float()
            rows = g[:, :, start:end].flatten(1, 2)
            ds = rows @ value[:, first:end].mT
            kernels.softmax_backward(ds.numpy(), p.numpy(), along[:, :, start:end].flatten(1).contiguous().numpy())
            dv[:, first:end].baddbmm_(p.mT, rows)
            dk[:, first:end].baddbmm_(ds.mT, q[:, :, start:end].flatten(1, 2))
            dq[:, :, start:end] = (ds @ key[:, first:end]).unflatten(1, (-1, end - start))
        return dq.flatten(0, 1).mul_(ctx.scaling), dk, dv, None, None, None


def _blocks(lengths: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """First token of the segment, first and end of the block."""
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
        kept_as: P from forward to backward; in float16 it takes half the memory, and gradients are off by 5e-4.
    """
    out: Tensor = _BlockAttention.apply(query, key, value, lengths, scaling, kept_as)
    return out
