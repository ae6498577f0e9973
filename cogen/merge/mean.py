"""Weighted mean of updates (task arithmetic, federated averaging done on delta_W)."""

from __future__ import annotations

from collections.abc import Sequence

from cogen.adapter import Factors
from cogen.merge.factored import stack


def mean(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """delta = sum_i w_i delta_i, exactly.

    Averaging A and B apart instead would be off by
    sum_{i<j} w_i w_j (B_i - B_j) (A_i - A_j).

    Args:
        weights: summing to 1 for a mean; taken as they are.
    Returns: rank sum_i r_i, scaling 1.
    Source: Task Arithmetic (arXiv 2212.04089); FLoRA (arXiv 2409.05976) for the stacked form.
    """
    return stack(parts, weights)
