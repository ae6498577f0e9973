"""TIES: trim small entries, elect a sign, average those that agree with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cogen.merge.factored import NULL_LEVEL

if TYPE_CHECKING:
    from torch import Tensor


def ties(cores: Tensor, weights: Sequence[float], density: float) -> Tensor:
    """Entry by entry, the weighted mean of the parts that agree with the elected sign.

    t_i = x_i where |x_i| is among the largest `density` of its matrix, else 0;
    e = sign(sum_i w_i t_i); result = sum_{i: sign t_i = e} w_i t_i / sum_{i: sign t_i = e} w_i.

    Where all signs agree, density 1 is the plain weighted mean: three copies at 1/3 give the copy
    back. (PEFT's `ties` divides by the number of agreeing parts on top of the weights, and gives a
    third of it.) Entries at 0 do not vote. Votes that cancel up to rounding elect nothing: 0.

    Args:
        cores: `(K, p, q)`, see `core_space`; entries of one place must mean the same thing.
        weights: K non-negative weights; only their ratios matter.
        density: the fraction kept by trimming, in (0, 1].
    Returns: `(p, q)`.
    Source: TIES-Merging (arXiv 2306.01708), with weights in the disjoint mean.
    """
    w = cores.new_tensor(list(weights))[:, None, None]
    votes = w * _trim(cores, density)
    ballot = votes.sum(dim=0)
    decided = ballot.abs() > NULL_LEVEL * votes.abs().sum(dim=0)
    agree = (votes.sign() == ballot.sign()) & (votes != 0) & decided
    mass = (w * agree).sum(dim=0)
    return (votes * agree).sum(dim=0) / mass.where(mass > 0, 1)


def _trim(cores: Tensor, density: float) -> Tensor:
    """Each matrix with all but its largest entries at 0; equals at the threshold stay together."""
    flat = cores.abs().flatten(1)
    count = max(1, round(density * flat.shape[1]))
    threshold = flat.kthvalue(flat.shape[1] - count + 1, dim=1).values * (1 - NULL_LEVEL)
    return cores.where(cores.abs() >= threshold[:, None, None], 0)
