"""Robust means, which a few bad client updates cannot steer, computed from inner products of the updates.

Over all modules, delta_i is one long vector; G = (<delta_i, delta_j>) `(K, K)` is a sum over modules of small
products of factors. Norms and distances follow from G. Every rule here returns a weight and a scale for each client,
so that D = sum_k w_k s_k delta_k and the server's step is the same for all rules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cogen.adapter import Factors
from cogen.errors import MergeError
from cogen.merge.core import GramStack
from cogen.merge.factored import inverse, normalise_weights

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["none", "clip", "median", "krum"]
MAX_STEPS, STOP = 10_000, 1e-12  # of Weiszfeld: stop when all weights together move less than this
SMOOTHING = 1e-6  # of Weiszfeld: the least distance that counts, in median norms
ROUNDING = 2.0**-40  # error of a squared distance relative to the squared norms, in float64, with a margin


@dataclass(frozen=True)
class Robust:
    """A rule and its setting.

    Args:
        clip: for "clip", the largest norm as a multiple of the median norm.
        num_bad: for "krum", the number f of bad clients.
    """

    kind: Kind = "none"
    clip: float = 1.0
    num_bad: int = 1


@dataclass(frozen=True)
class Weighed:
    """The result of a rule for K client updates.

    Args:
        weights: they sum to 1; an update of weight 0 is dropped.
        scales: factor on each client update, in [0, 1].
        norms: norms of the client updates.
    """

    weights: list[float]
    scales: list[float]
    norms: list[float]


def inner_products(parts: Sequence[Factors]) -> Tensor:
    """<delta_i, delta_j> of K updates of one module, `(K, K)` in float64; no (d_out, d_in) matrix is formed.

    <B A, B' A'> = sum of (B^T B') * (A A'^T), elementwise.
    """
    import torch

    grams = GramStack.of(parts)
    products = grams.outer * grams.inner
    rows = [torch.stack([products[i, j].sum() for j in grams.blocks]) for i in grams.blocks]
    return torch.stack(rows)


def weigh(gram: Tensor, weights: Sequence[float], rule: Robust) -> Weighed:
    """Weights and scales of K client updates by their inner products over all modules.

    Args:
        gram: `(K, K)`, the sum of `inner_products` over the modules.
        weights: K non-negative weights [tokens]; normalised here.
    Raises:
        MergeError: krum has fewer than 2 f + 3 client updates.
        WeightError: the weights are negative, not finite, sum to 0, or are not K.
    """
    shares = normalise_weights(weights, len(gram))
    norms = gram.diagonal().clamp_min(0.0).sqrt()
    scales = [1.0] * len(shares)
    if rule.kind == "clip":
        scales = clip_scales(norms, rule.clip)
    elif rule.kind == "median":
        shares = median_weights(gram, shares)
    elif rule.kind == "krum":
        kept = krum_choice(gram, rule.num_bad)
        shares = normalise_weights([w if k else 0.0 for w, k in zip(shares, kept, strict=True)], len(shares))
    return Weighed(shares, scales, norms.tolist())


def clip_scales(norms: Tensor, clip: float) -> list[float]:
    """s_k = min(1, clip * m / |delta_k|), m the lower median of the norms.

    With D = sum_k w_k s_k delta_k, sum_k w_k = 1:

    - a client's own part is at most w * clip * m, and |D| at most clip * m, whatever it sends;
    - D and D', which differ in what one client of weight w sent, and so perhaps in m and m', are at most
      clip * (w (m + m') + (1 - w) |m - m'|) apart: 2 w clip m where the median stays;
    - while at most half of the clients are bad, m is at most the largest norm of a good one.

    Proof of the second: the part of client b differs by at most clip (m + m') w; any other by at most
    clip |m - m'| times its weight, since s(m) |delta| = min(|delta|, clip m). Of the third: more than half
    of the norms are m or more, so a good one is.

    Args:
        norms: `(K,)`.
        clip: above 0.
    Source: norm clipping (arXiv 1911.07963), its bound taken from the round itself.
    """
    bound = clip * norms.median()  # torch's median is the lower one
    scales: list[float] = (bound * inverse(norms)).clamp(max=1.0).where(norms > bound, 1.0).tolist()
    return scales


def median_weights(gram: Tensor, weights: Sequence[float]) -> list[float]:
    """Convex weights c of the geometric median z = sum_k c_k delta_k, which minimises sum_k w_k |z - delta_k|.

    Smoothed Weiszfeld from c = w: c_k becomes w_k / max(nu, |z - delta_k|), over their sum, with
    |z - delta_k|^2 = c^T G c - 2 (G c)_k + G_kk and nu = 1e-6 of the lower median norm; until c moves
    by less than 1e-12 in all, or for 10,000 steps.

    While the bad clients' weights sum to alpha < 1/2, |z| is at most 2 (1 - alpha) / (1 - 2 alpha) times the
    largest good norm, up to nu, for any updates they send.

    Source: RFA (arXiv 1912.13445); the bound is that of Minsker (arXiv 1308.1334), lemma 2.1.
    """
    import torch

    shares = torch.tensor(weights, dtype=torch.float64)
    squares = gram.diagonal()
    floor = SMOOTHING * float(squares.clamp_min(0.0).sqrt().median()) or math.sqrt(torch.finfo(torch.float64).tiny)
    c = shares
    for _ in range(MAX_STEPS):
        across = gram @ c
        away = (c @ across - 2 * across + squares).clamp_min(0.0).sqrt().clamp_min(floor)
        made = shares / away
        made = made / made.sum()
        moved = float((made - c).abs().sum())
        c = made
        if moved < STOP:
            break
    found: list[float] = c.tolist()
    return found


def krum_choice(gram: Tensor, num_bad: int) -> list[bool]:
    """Which of n client updates Multi-Krum keeps: the n - f - 2 with the lowest scores, and those that tie with them.

    A score is the sum of the n - f - 2 smallest squared distances to others. As n - f - 2 > f, the nearest updates of any
    update include a good one, so f bad clients cannot support each other.

    Raises:
        MergeError: n is below 2 f + 3.
    Source: Krum (arXiv 1703.02757); n - f - 2 as in Bulyan's paper (arXiv 1802.07927).
    """
    n = len(gram)
    if n < 2 * num_bad + 3:
        raise MergeError(
            "cannot use krum",
            expected=f"at least {2 * num_bad + 3} client updates with num_byzantine = {num_bad}",
            got=str(n),
            fix="Lower federation.num_byzantine, or use clip or median.",
        )
    squares = gram.diagonal()
    sums = squares[:, None] + squares[None, :]
    away = sums - 2 * gram
    away = away.where(away > ROUNDING * sums, 0.0)
    away.fill_diagonal_(math.inf)
    near = n - num_bad - 2
    scores = away.sort(dim=1).values[:, :near].sum(dim=1)
    last = scores.sort().values[near - 1]
    return [bool(score <= last) for score in scores]
