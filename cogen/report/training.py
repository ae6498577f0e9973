"""Training as its logs tell it, in bounded memory: the loss curve of a client, and the baselines of a seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cogen.report.events import BaselineStarted, BaselineStep, parse

MAX_POINTS = 160  # twice as many pixels' worth as a phone can show

Point = tuple[float, float]


class Curve:
    """Loss by tokens in fewer than `MAX_POINTS` points: when there are too many, neighbours are averaged in pairs.

    Steps that come again after a resume replace those that they repeat. A loss that is not finite leaves a point
    that is not finite, so that the chart shows a gap.

    Attributes:
        num_steps_per_point: how many steps a point is the mean of; the last point may hold fewer.
    """

    def __init__(self) -> None:
        self.num_steps_per_point = 1
        self._points: list[Point] = []
        self._open: list[Point] = []
        self._last_tokens = 0.0

    def add(self, num_tokens: int, loss_nats: float) -> None:
        """Take one more step."""
        if num_tokens <= self._last_tokens:
            self._points = [point for point in self.points if point[0] < num_tokens]
            self._open = []
        self._last_tokens = float(num_tokens)
        self._open.append((float(num_tokens), loss_nats if math.isfinite(loss_nats) else math.nan))
        if len(self._open) == self.num_steps_per_point:
            self._points.append(_mean(self._open))
            self._open = []
        if len(self._points) == MAX_POINTS:
            self._points = [_mean(self._points[i : i + 2]) for i in range(0, MAX_POINTS, 2)]
            self.num_steps_per_point *= 2

    @property
    def points(self) -> tuple[Point, ...]:
        """All points; the last one is the mean of the steps since the last full point."""
        return (*self._points, _mean(self._open)) if self._open else tuple(self._points)


def _mean(points: list[Point]) -> Point:
    return sum(p[0] for p in points) / len(points), sum(p[1] for p in points) / len(points)


@dataclass(frozen=True)
class BaselineState:
    """One baseline: `state` is training, trained or dropped; `step` is the last one logged."""

    name: str
    state: str
    reason: str
    step: BaselineStep | None


class Baselines:
    """The baselines of one seed, in the order in which they began.

    Attributes:
        current: the baseline that trains now; empty where none does.
    """

    def __init__(self) -> None:
        self.current, self._num_tokens = "", 0
        self._states: dict[str, tuple[str, str]] = {}
        self._steps: dict[str, BaselineStep] = {}

    def add_event(self, name: str, values: Mapping[str, Any]) -> None:
        """Take `baseline_started`, `baseline_trained` or `baseline_failed`.

        Raises:
            ValidationError: a field is missing or of another type.
        """
        baseline = parse(str, values.get("baseline"))
        if name == "baseline_started":
            self._num_tokens = parse(BaselineStarted, values).num_left_tokens
            self.current, self._states[baseline] = baseline, ("training", "")
            return
        self.current = ""
        is_dropped = name == "baseline_failed"
        self._states[baseline] = ("dropped", str(values.get("reason", ""))) if is_dropped else ("trained", "")

    def add_step(self, values: Mapping[str, Any]) -> None:
        """Take one line of `logs/baselines.jsonl`.

        Raises:
            ValidationError: a field is missing or of another type.
        """
        step = parse(BaselineStep, values)
        self._steps[step.baseline] = step

    @property
    def num_left_tokens(self) -> int | None:
        """What the current baseline and those after it have still to train; None while none trains."""
        if not self.current:
            return None
        step = self._steps.get(self.current)
        return max(0, self._num_tokens - (step.num_tokens if step else 0))

    @property
    def states(self) -> list[BaselineState]:
        """The state of every baseline."""
        return [BaselineState(n, state, why, self._steps.get(n)) for n, (state, why) in self._states.items()]
