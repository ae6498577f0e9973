"""Pico: scale down output directions that many adapters write to, before they are combined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from cogen.adapter import Factors
from cogen.merge.core import shared_outputs
from cogen.merge.factored import norm


def calibrate(parts: Sequence[Factors]) -> list[Factors]:
    """delta'_i = (I + U diag(alpha - 1) U^T) delta_i, with alpha_j = 1 / (1 + (K - 1) s_j).

    U holds the output directions of all parts together and s_j the share of their energy in
    direction j, sum_j s_j = 1: a direction with all the energy is divided by K, one with little is
    hardly changed.

    The paper takes U and s from the SVD of [B_1 ... B_K], which depends on how training split
    delta between A and B; here from [delta_1 ... delta_K], which does not.

    Args:
        parts: K updates of one shape; ranks and scalings may differ.
    Source: Pico (arXiv 2604.16826).
    """
    basis, values = shared_outputs(parts)
    energy = values.double().square()
    total = energy.sum()
    share = (energy / total if float(total) > 0 else energy).to(basis)
    alpha = 1.0 / (1.0 + (len(parts) - 1) * share)
    return [replace(f, b=f.b + basis @ ((alpha - 1.0)[:, None] * (basis.T @ f.b))) for f in parts]


def restore(combined: Factors, parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """`combined`, rescaled to the mean norm of the original parts: gamma = sum_i w_i |delta_i| / |combined|.

    Args:
        parts: the updates before `calibrate`.
        weights: K weights that sum to 1.
    Source: Pico (arXiv 2604.16826), with weights.
    """
    target = math.fsum(w * norm(f) for f, w in zip(parts, weights, strict=True))
    there = norm(combined)
    return Factors(a=combined.a, b=combined.b, scaling=combined.scaling * target / there) if there > 0 else combined
