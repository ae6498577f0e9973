"""A curve that grows for as long as it likes and stays small."""

from __future__ import annotations

import math

MOST_POINTS = 200


class Curve:
    """Loss by tokens in a bounded number of points: when there are too many, neighbours are averaged.

    Steps that come again, after a run was resumed, take the place of those they repeat.
    """

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []
        self._bucket: list[tuple[float, float]] = []
        self._size = 1

    def add(self, num_tokens: int, loss_nats: float) -> None:
        """One more step; a loss that is not finite leaves no point."""
        if not math.isfinite(loss_nats):
            return
        if self.points and num_tokens <= self.points[-1][0]:
            self._points = [point for point in self.points if point[0] < num_tokens]
            self._bucket = []
        self._bucket.append((float(num_tokens), loss_nats))
        if len(self._bucket) == self._size:
            self._points.append(_mean(self._bucket))
            self._bucket = []
        if len(self._points) == 2 * MOST_POINTS:
            self._points = [_mean(self._points[i : i + 2]) for i in range(0, 2 * MOST_POINTS, 2)]
            self._size *= 2

    @property
    def points(self) -> list[tuple[float, float]]:
        """All points, the last one of steps that do not fill their bucket yet."""
        return [*self._points, _mean(self._bucket)] if self._bucket else self._points


def _mean(points: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(p[0] for p in points) / len(points), sum(p[1] for p in points) / len(points)
