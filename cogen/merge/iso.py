"""Iso-C: the mean update with all its singular values made equal."""

from __future__ import annotations

from collections.abc import Sequence

from cogen.adapter import Factors
from cogen.merge.factored import compress, leading, numerical_rank, stack


def iso(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """mean(S) U V^T, with U S V^T = sum_i w_i delta_i, over the directions with singular values above rounding.

    The published code takes the mean over all min(d_out, d_in) singular values and also fills directions that no
    expert uses: for low-rank updates most of the result is then outside their span. Here it stays inside.

    Args:
        parts: K updates of one shape; ranks and scalings may differ.
        weights: K weights, taken as they are.
    Returns: factors in the order of the mean's singular values, so that a cut keeps its strongest
        directions; scaling 1.
    Source: Isotropic merging (arXiv 2502.04959).
    """
    whole = compress(stack(parts, weights), None)
    count = numerical_rank(whole.singular_values)
    head, _ = leading(whole.factors, count)
    values = whole.singular_values[:count]
    root = (values.mean() / values.clamp_min(1e-30)).sqrt()
    return Factors(a=head.a * root[:, None], b=head.b * root, scaling=1.0)
