"""AUC and true positives at few false positives, with intervals over documents; shares with Wilson's interval.

Legend: n trained windows, m other windows, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cogen.audit.record import MAX_FALSE_POSITIVE_FRAC, Estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

NUM_RESAMPLES = 1000
TAIL_PERCENT = 2.5
MIN_DOCUMENTS = 3
Z = 1.959964  # of the normal distribution, for 95%


def attack_estimates(
    members: Sequence[float],
    others: Sequence[float],
    member_documents: Sequence[int],
    other_documents: Sequence[int],
    seed: int,
) -> tuple[Estimate, Estimate]:
    """AUC, and the share of members found at 1% false positives, for scores that should be higher for members.

    The interval is that of a bootstrap that draws documents, since windows of one document are not independent. With
    fewer than `MIN_DOCUMENTS` documents on one side it is all of 0 to 1.

    Args:
        members, others: scores `(n,)` and `(m,)`.
        member_documents, other_documents: the document of each.
    Source: Mann and Whitney 1947 (ties count half); Field and Welsh, bootstrapping clustered data (2007).
    """
    high, low = np.asarray(members, np.float64), np.asarray(others, np.float64)
    draw = np.random.default_rng([seed, len(high), len(low)])
    w, v = (_weights(documents, draw) for documents in (member_documents, other_documents))
    areas, found = _areas(high, low, w, v), _found(high, low, w, v)
    is_known = min(len(set(member_documents)), len(set(other_documents))) >= MIN_DOCUMENTS
    return _estimate(areas, is_known), _estimate(found, is_known)


def _weights(documents: Sequence[int], draw: np.random.Generator) -> Values:
    """How often each window is drawn, `(1 + R, n)`; the first row is the sample itself."""
    _, which = np.unique(np.asarray(documents), return_inverse=True)
    num = int(which.max()) + 1
    counts = draw.multinomial(num, np.full(num, 1.0 / num), size=NUM_RESAMPLES)
    return np.concatenate([np.ones((1, len(which))), counts[:, which].astype(np.float64)])


def _areas(members: Values, others: Values, w: Values, v: Values) -> Values:
    """Weighted AUC `(1 + R,)`."""
    wins = (members[:, None] > others).astype(np.float64) + 0.5 * (members[:, None] == others)
    areas: Values = ((w @ wins) * v).sum(1) / (w.sum(1) * v.sum(1))
    return areas


def _found(members: Values, others: Values, w: Values, v: Values) -> Values:
    """Weighted share of members above the lowest threshold with at most 1% of the others above it, `(1 + R,)`."""
    order = np.argsort(-others, kind="stable")
    above = np.cumsum(v[:, order], axis=1)
    allowed = MAX_FALSE_POSITIVE_FRAC * v.sum(1, keepdims=True) + 1e-9
    thresholds = others[order][np.argmax(above > allowed, axis=1)]
    shares: Values = (w * (members > thresholds[:, None])).sum(1) / w.sum(1)
    return shares


def _estimate(values: Values, is_known: bool) -> Estimate:
    low, high = np.percentile(values[1:], [TAIL_PERCENT, 100.0 - TAIL_PERCENT]) if is_known else (0.0, 1.0)
    value = float(values[0])
    return Estimate(_in_bounds(value), _in_bounds(min(low, value)), _in_bounds(max(high, value)))


def _in_bounds(value: float) -> float:
    return min(1.0, max(0.0, float(value)))


def wilson(num: int, total: int) -> Estimate:
    """A share and its 95% interval, which is neither empty nor beyond 0 and 1 for shares of 0 and 1.

    Source: Wilson 1927.
    """
    if total == 0:
        return Estimate(0.0, 0.0, 1.0)
    share, spread = num / total, Z**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return Estimate(share, _in_bounds(min(share, middle - half)), _in_bounds(max(share, middle + half)))
