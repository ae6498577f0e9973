"""What is trained beside a run, as it happens: baselines, and the same run with further seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

if TYPE_CHECKING:
    from cogen.report.live import LiveRun

NO_FIGURES: dict[str, Any] = {"done_frac": None, "loss": None, "tokens_per_second": None, "left_tokens": None}


@dataclass(frozen=True)
class ControlStarted:
    """A baseline begins, or goes on; `num_left_tokens` are those of this one and of all after it."""

    baseline: str
    num_left_tokens: int


@dataclass(frozen=True)
class ControlStep:
    """One step of a baseline's training; `num_tokens` are those of this baseline so far."""

    baseline: str
    step: int
    num_steps: int
    num_tokens: int
    loss_nats: float
    tokens_per_second: float


@dataclass(frozen=True)
class Seed:
    """A seed of the run that is begun or done: the `number`-th of `num_seeds`."""

    seed: int
    number: int
    num_seeds: int


class LiveBaselines:
    """The baselines of one seed, in the order in which they were begun; `now` is the one that trains."""

    def __init__(self) -> None:
        self.now, self._num_tokens = "", 0
        self._states: dict[str, tuple[str, str]] = {}
        self._steps: dict[str, ControlStep] = {}

    def add_event(self, name: str, values: Mapping[str, Any]) -> None:
        """`baseline_started`, `baseline_trained` or `baseline_failed`.

        Raises:
            ValidationError: a field is missing or of another type.
        """
        baseline = TypeAdapter(str).validate_python(values.get("baseline"))
        if name == "baseline_started":
            self._num_tokens = TypeAdapter(ControlStarted).validate_python(values).num_left_tokens
            self.now, self._states[baseline] = baseline, ("training", "")
        else:
            self.now = ""
            is_dropped = name == "baseline_failed"
            self._states[baseline] = ("dropped", str(values.get("reason", ""))) if is_dropped else ("trained", "")

    def add_step(self, values: Mapping[str, Any]) -> None:
        """One line of `logs/baselines.jsonl`.

        Raises:
            ValidationError: a field is missing or of another type.
        """
        step = TypeAdapter(ControlStep).validate_python(values)
        self._steps[step.baseline] = step

    @property
    def num_left_tokens(self) -> int | None:
        """What this baseline and those after it have still to train; None while none trains."""
        if not self.now:
            return None
        step = self._steps.get(self.now)
        return max(0, self._num_tokens - (step.num_tokens if step else 0))

    def rows(self, seed: int) -> list[dict[str, Any]]:
        """A row of the page for each."""
        return [self._row(name, seed) for name in self._states]

    def _row(self, name: str, seed: int) -> dict[str, Any]:
        state, reason = self._states[name]
        row = {"seed": seed, "name": name, "state": state, "reason": reason, "progress": "", **NO_FIGURES}
        step = self._steps.get(name)
        if step is not None and state != "dropped":
            row |= {
                "progress": f"step {step.step} of {step.num_steps}",
                "done_frac": step.step / max(1, step.num_steps),
            }
            row |= {"loss": _finite(step.loss_nats), "tokens_per_second": _finite(step.tokens_per_second)}
            row["left_tokens"] = round(step.num_tokens * (step.num_steps / max(1, step.step) - 1))
        return row


def seeds_section(live: LiveRun) -> dict[str, Any]:
    """What is trained beside the run, and what of it is worked on now; a seed that is yet to come waits."""
    seed, rows = live.seed, []
    runs = {live.first_seed: live, **{s: live.seeds.get(s) for s in live.further_seeds}}
    for value, run in runs.items():
        rows += [_run_row(run, value)] if len(runs) > 1 else []
        rows += run.baselines.rows(value) if run else []
    now = runs[seed.seed] if seed else live
    about: dict[str, Any] = {"phase": "starting", "round": 0, "num_rounds": 0, "baseline": "", "left_tokens": None}
    if now is not None:
        about |= {"phase": "scoring" if seed and now.phase_now == "finished" else now.phase_now, "round": now.round}
        about |= {"num_rounds": now.started.num_rounds if now.started else 0, "baseline": now.baselines.now}
        about["left_tokens"] = now.baselines.num_left_tokens
    return {"seed": asdict(seed) if seed else None, "now": about, "rows": rows}


def _run_row(run: LiveRun | None, seed: int) -> dict[str, Any]:
    """The rounds of one seed."""
    row = {"seed": seed, "name": "the run", "state": "waiting", "reason": "", "progress": "", **NO_FIGURES}
    if run is None or run.phase == "waiting":
        return row
    row["state"] = {"failed": "failed", "finished": "trained"}.get(run.phase, "training")
    row["reason"] = run.reason if run.phase == "failed" else ""
    if run.started and run.round:
        row |= {"progress": f"round {run.round} of {run.started.num_rounds}", "done_frac": run.done_frac()}
    return row


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
