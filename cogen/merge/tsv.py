"""TSV-M: make the experts' singular vectors orthogonal to each other before adding them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cogen.adapter import Factors
from cogen.merge.core import GramStack, block_diagonal
from cogen.merge.factored import gram_svd, inverse, numerical_rank, right_singular

if TYPE_CHECKING:
    from torch import Tensor


def tsv(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """sum_i K w_i sigma_i u'_i v'_i^T, with u' and v' the nearest orthonormal sets to all u_i and v_i.

    delta_i = U_i S_i V_i^T; [U'_1 ... U'_K] = P Q^T where [U_1 ... U_K] = P D Q^T, likewise V'. Of each
    part the first floor(min(d_out, d_in) / K) directions take part. Equal weights sum to 1, so that
    K w_i = 1: experts in orthogonal directions are added, and K copies of an expert give that expert.

    The published code takes floor(min(d_out, d_in) / K) directions of every part, those of singular
    value 0 too: for low-rank updates arbitrary vectors then take part in the orthogonalisation. Here only
    directions with singular values above rounding do.

    Args:
        parts: K updates of one shape; ranks and scalings may differ.
        weights: K positive weights that sum to 1.
    Returns: rank at most sum_i r_i, scaling 1.
    Source: Task Singular Vectors (arXiv 2412.00081).
    """
    import torch

    room = max(1, min(parts[0].shape) // len(parts))
    grams = GramStack.of(parts)
    xs, ys, values = [], [], []
    for block, weight in zip(grams.blocks, weights, strict=True):
        sigma, x, y = gram_svd(grams.outer[block, block], grams.inner[block, block])
        count = min(room, numerical_rank(sigma))
        xs.append(x[:, :count] * inverse(sigma[:count]))
        ys.append(y[:, :count])
        values.append(sigma[:count] * (weight * len(parts)))
    x, y = block_diagonal(xs), block_diagonal(ys)
    u = grams.b @ (x @ inverse_root(x.T @ grams.outer @ x))
    v = grams.a.T @ (y @ inverse_root(y.T @ grams.inner @ y))
    return Factors(a=v.T.to(parts[0].a), b=(u * torch.cat(values)).to(parts[0].b), scaling=1.0)


def inverse_root(gram: Tensor) -> Tensor:
    """(C^T C)^(-1/2) over the directions that are there: C times it is the nearest orthonormal set to C (Procrustes).

    Args:
        gram: C^T C `(k, k)`, float64.
    """
    values, v = right_singular(gram)
    values = values[: numerical_rank(values)]
    v = v[:, : len(values)]
    return (v * inverse(values)) @ v.T
