"""TSV-M: make the experts' singular vectors orthogonal to each other before adding them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cogen.adapter import Factors
from cogen.merge.factored import compress, eigenbasis, leading, numerical_rank

if TYPE_CHECKING:
    from torch import Tensor


def tsv(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """sum_i K w_i sigma_i u'_i v'_i^T, with u' and v' the nearest orthonormal sets to all u_i and v_i.

    delta_i = U_i S_i V_i^T; [U'_1 ... U'_K] = P Q^T where [U_1 ... U_K] = P D Q^T, likewise V'. Of each
    part the first floor(min(d_out, d_in) / K) directions take part. Equal weights sum to 1, so that
    K w_i = 1: experts that do not meet are added, K copies give one.

    The published code takes floor(min(d_out, d_in) / K) directions of every part, those of singular
    value 0 too: for low-rank updates arbitrary vectors then take part in the orthogonalisation. Here
    only directions that carry something do.

    Args:
        parts: K updates of one shape; ranks and scalings may differ.
        weights: K positive weights that sum to 1.
    Returns: rank at most sum_i r_i, scaling 1.
    Source: Task Singular Vectors (arXiv 2412.00081).
    """
    import torch

    room = max(1, min(parts[0].shape) // len(parts))
    us, vs, values = [], [], []
    for f, weight in zip(parts, weights, strict=True):
        whole = compress(f, None)
        count = min(room, numerical_rank(whole.singular_values))
        head, _ = leading(whole.factors, count)
        norms = whole.singular_values[:count].sqrt().clamp_min(1e-30)
        us.append(head.b / norms)
        vs.append(head.a.T / norms)
        values.append(whole.singular_values[:count] * (weight * len(parts)))
    u, v = nearest_orthonormal(torch.cat(us, dim=1)), nearest_orthonormal(torch.cat(vs, dim=1))
    return Factors(a=v.T.contiguous(), b=u * torch.cat(values), scaling=1.0)


def nearest_orthonormal(columns: Tensor) -> Tensor:
    """P Q^T of columns = P D Q^T `(m, k)`, over the directions that are there (orthogonal Procrustes)."""
    u, _, v = eigenbasis(columns)
    return u @ v.T
