"""The next scale to try for a method, from parabolas through its trials and the base at scale 0."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cogen.analysis.trials import Trial

NEAREST, OUTWARD, WIDE = 1.05, 1.25, 1.5


def next_scale(tried: Sequence[Trial]) -> float | None:
    """The scale to try next, from the trials of one method; None once the best scale is bracketed closely.

    The points are (0, 1), which is the base, and (scale, mean ratio) of the trials. The next scale is

    - half the lowest scale, if all trials violate a constraint;
    - half-way to a neighbour that is lower than the best trial, since that neighbour violates a constraint or is the base;
    - otherwise the vertex of the parabola through the best trial and its neighbours; above the largest or below the
      lowest scale, it is at least a factor 1.25 away.

    The search ends when the parabola leads to a known scale, within 5 per cent, and both neighbours are within a
    factor 1.5.
    """
    points, at = _points(tried)
    scale, here = points[at]
    if min(t.violation for t in tried) > 0:
        return tidy(points[1][0] / 2)
    if at == len(points) - 1:
        outward = _vertex(points[-3:])
        return tidy(2 * scale if outward is None else min(max(outward, OUTWARD * scale), 2 * scale))
    left, right = points[at - 1], points[at + 1]
    known = [s for s, _ in points[1:]]
    if min(left[1], right[1]) < here:
        target: float | None = (scale + min(left, right, key=lambda p: p[1])[0]) / 2
    else:
        target = _vertex(points[at - 1 : at + 2])
        if target is None or _is_near(target, known):
            target = _probe(left[0], scale, right[0])
        elif left[0] == 0 and target < scale:
            target = min(target, scale / OUTWARD)
    return None if target is None or _is_near(target, known) else tidy(target)


def _is_near(scale: float, known: Sequence[float]) -> bool:
    return any(1 / NEAREST < scale / s < NEAREST for s in known)


def _probe(left: float, scale: float, right: float) -> float | None:
    """A scale on the wider side of the best one; None if both sides are narrow.

    A vertex at the best trial says little while the other trials are far away, where the curve is not a parabola.
    """
    below, above = math.inf if left == 0 else scale / left, right / scale
    if max(below, above) <= WIDE:
        return None
    return scale / min(math.sqrt(below), WIDE) if below >= above else scale * min(math.sqrt(above), WIDE)


def promise(tried: Sequence[Trial]) -> tuple[float, float]:
    """The rank of a method before its best scale is known; lower is better.

    Returns: by how much its best trial violates a constraint, and the lowest value of the parabola around that trial.
    """
    best = min(tried, key=lambda t: t.standing)
    if best.violation > 0:
        return best.violation, best.mean_ratio
    points, at = _points(tried)
    middle = min(at, len(points) - 2)
    near = points[middle - 1 : middle + 2]
    vertex = _vertex(near)
    if vertex is None:
        return 0.0, best.mean_ratio
    limit = 2 * near[2][0] if at == len(points) - 1 else near[2][0]
    return 0.0, min(best.mean_ratio, _parabola(near, min(max(vertex, near[0][0]), limit)))


def tidy(scale: float) -> float:
    """The scale rounded to four digits, so that the reported scale is the one that was tried."""
    return float(f"{scale:.4g}")


def _points(tried: Sequence[Trial]) -> tuple[list[tuple[float, float]], int]:
    """(scale, mean ratio) by rising scale, the base first, and the index of the best trial."""
    points = sorted({(t.candidate.rule.scale, t.mean_ratio) for t in tried})
    best = min(tried, key=lambda t: t.standing)
    return [(0.0, 1.0), *points], 1 + points.index((best.candidate.rule.scale, best.mean_ratio))


def _slopes(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """First and second divided difference of three points."""
    (x0, y0), (x1, y1), (x2, y2) = points
    first = (y1 - y0) / (x1 - x0)
    return first, ((y2 - y1) / (x2 - x1) - first) / (x2 - x0)


def _vertex(points: Sequence[tuple[float, float]]) -> float | None:
    """Where the parabola through three points is lowest; None if it has no minimum."""
    first, second = _slopes(points)
    vertex = (points[0][0] + points[1][0]) / 2 - first / (2 * second) if 0 < second < math.inf else math.nan
    return vertex if math.isfinite(vertex) else None


def _parabola(points: Sequence[tuple[float, float]], x: float) -> float:
    first, second = _slopes(points)
    return points[0][1] + first * (x - points[0][0]) + second * (x - points[0][0]) * (x - points[1][0])
