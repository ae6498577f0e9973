"""A run as it happens: what a page shows of it, from the events and the steps seen so far."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache, partial
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cogen.evaluate.matrix import BASE, Cell, Evaluation
from cogen.report.artifacts_live import LiveBaselines, Seed, seeds_section
from cogen.report.charts import round_points
from cogen.report.curve import Curve
from cogen.report.heat import heat_rows
from cogen.report.live_text import describe
from cogen.report.record import DroppedEvent, ReplyEvent, RoundDone, Started

MOST_EVENTS = 100
PHASES = {"run_started": "starting", "evaluated": "scored", "run_finished": "finished", "run_failed": "failed"}
BASELINE_EVENTS = ("baseline_started", "baseline_trained", "baseline_failed")
Sections = dict[str, Any]


@dataclass(frozen=True)
class LiveStep:
    """One training step; `num_tokens` counts over the whole run of the client."""

    round: int
    step: int
    num_steps: int
    num_tokens: int
    loss_nats: float
    tokens_per_second: float


class LiveRun:
    """What is known of a run. `changed` names the sections of the page that may differ since it was last emptied.

    `phase` is that of the rounds. Where something is scored, `seed` is the one that is worked on, None after the
    last; `seeds` has the runs of the further ones.
    """

    def __init__(self) -> None:
        self.started: Started | None = None
        self.phase, self.reason, self.round = "waiting", "", 0
        self.began = self.updated = 0.0
        self.outcomes: dict[tuple[int, str], ReplyEvent | DroppedEvent] = {}
        self.rounds: dict[int, RoundDone] = {}
        self.steps: dict[str, tuple[float, LiveStep]] = {}
        self.curves: dict[str, Curve] = {}
        self.lines: deque[dict[str, str]] = deque(maxlen=MOST_EVENTS)
        self.evaluation: Evaluation | None = None
        self.num_unreadable = 0
        self.baselines, self.seeds = LiveBaselines(), dict[int, LiveRun]()
        self.seed: Seed | None = None
        self.first_seed, self.further_seeds = 0, range(0)
        self.changed = {"run", "clients", "events", "bits", "matrix", "scoring"}

    def add_event(self, values: Mapping[str, Any]) -> None:
        """One line of `events.jsonl`; what cannot be read is counted."""
        name, time = str(values.get("event")), str(values.get("time", ""))
        self.updated = max(self.updated, _seconds(time))
        self.lines.append({"time": time, "event": name, "text": describe(values)})
        self.changed |= {"run", "clients", "events", "scoring"}
        try:
            self._take(name, time, values)
        except ValidationError:
            self.num_unreadable += 1

    def _take(self, name: str, time: str, values: Mapping[str, Any]) -> None:
        self.phase = PHASES.get(name, self.phase)
        self.reason = str(values.get("reason", "")) if name in ("run_failed", "seed_summary_failed") else self.reason
        if name == "run_started":
            self.started, self.round, self.reason = _read(Started, values), 0, ""
            self.changed |= {"bits", "matrix"}
        elif name == "round_started":
            self.round, self.began, self.phase = _read(int, values.get("round")), _seconds(time), "training"
            self._forget_round()
        elif name in ("client_replied", "client_dropped"):
            found: ReplyEvent | DroppedEvent = _read(ReplyEvent if name == "client_replied" else DroppedEvent, values)
            self.outcomes[found.round, found.domain] = found
            self.changed |= {"bits", "matrix"}
        elif name == "round_finished":
            done: RoundDone = _read(RoundDone, values)
            self.rounds[done.round] = done
            if self.started and done.round == self.started.num_rounds:
                self.phase = "scoring"
        elif name in BASELINE_EVENTS:
            self.baselines.add_event(name, values)
        elif name in ("seed_started", "seed_finished"):
            self._take_seed(_read(Seed, values), is_done=name == "seed_finished")

    def _take_seed(self, seed: Seed, *, is_done: bool) -> None:
        self.seed = None if is_done and seed.number == seed.num_seeds else seed
        self.first_seed = seed.seed - seed.number + 1
        self.further_seeds = range(self.first_seed + 1, self.first_seed + seed.num_seeds)
        self.baselines.now, self.reason = "", ""
        if self.phase in ("waiting", "failed"):
            self.phase = "starting"

    def _forget_round(self) -> None:
        """A round that begins again starts from nothing."""
        self.outcomes = {key: value for key, value in self.outcomes.items() if key[0] < self.round}

    def add_step(self, domain: str, values: Mapping[str, Any], written: float) -> None:
        """One line of a client's training log, which was last written at `written` [seconds since 1970]."""
        try:
            step: LiveStep = _read(LiveStep, values)
        except ValidationError:
            self.num_unreadable += 1
            return
        self.updated = max(self.updated, written)
        self.steps[domain] = written, step
        self.curves.setdefault(domain, Curve()).add(step.num_tokens, step.loss_nats)
        self.changed |= {"run", "clients", f"loss:{domain}"}

    def add_baseline_step(self, values: Mapping[str, Any], written: float) -> None:
        """One line of the log of the baselines, which was last written at `written` [seconds since 1970]."""
        try:
            self.baselines.add_step(values)
        except ValidationError:
            self.num_unreadable += 1
        self.updated = max(self.updated, written)
        self.changed |= {"run", "scoring"}

    def set_evaluation(self, evaluation: Evaluation | None) -> None:
        """The matrix that the run wrote, or none."""
        self.evaluation = evaluation
        self.changed.add("matrix")

    @property
    def domains(self) -> list[str]:
        """Those of the run, then any other that left a log."""
        named = self.started.domains if self.started else []
        return list(dict.fromkeys([*named, *self.steps]))

    @property
    def phase_now(self) -> str:
        """Of the whole run: after the rounds, it is over only when nothing is left to be scored."""
        if self.phase != "finished":
            return self.phase
        if self.baselines.now:
            return "baseline"
        if self.seed is None:
            return "finished"
        return "failed" if self.reason else "scoring"

    def section(self, name: str) -> Any:
        """One part of the page as plain values that JSON can hold."""
        if name.startswith("loss:"):
            return self.curves[name.removeprefix("loss:")].points
        parts = {"run": self._run, "clients": self._clients, "bits": self._bits, "matrix": self._matrix}
        parts["scoring"] = partial(seeds_section, self)
        return list(self.lines) if name == "events" else parts[name]()

    def _run(self) -> Sections:
        started, replies = self.started, [r for r in self.outcomes.values() if isinstance(r, ReplyEvent)]
        return {
            "name": started.run if started else "",
            "base": started.base if started else "",
            "resumed": bool(started and started.resumed),
            "num_rounds": started.num_rounds if started else 0,
            "phase": self.phase_now,
            "reason": self.reason,
            "round": self.round,
            "done_frac": self.done_frac(),
            "left_seconds": self._left_seconds(),
            "updated": self.updated,
            "num_tokens": sum(r.num_tokens for r in replies),
            "num_bytes": sum(r.bytes_up + r.bytes_down for r in replies),
            "num_unreadable": self.num_unreadable,
        }

    def _step_now(self, domain: str) -> LiveStep | None:
        """The last step of the open round; a log from before the round began (again) does not count."""
        written, step = self.steps.get(domain, (0.0, None))
        return step if step and step.round == self.round and written >= self.began else None

    def _round_frac(self) -> float:
        """How much of the open round is done, a client that replied or was dropped counting in full."""
        steps = {d: self._step_now(d) for d in self.domains}
        shares = [step.step / max(1, step.num_steps) if step else 0.0 for step in steps.values()]
        ended = [(self.round, d) in self.outcomes for d in self.domains]
        return sum(1.0 if e else s for e, s in zip(ended, shares, strict=True)) / max(1, len(shares))

    def done_frac(self) -> float:
        """How much of all rounds is done."""
        if self.started is None or self.round == 0:
            return 0.0
        return min(1.0, (self.round - 1 + self._round_frac()) / max(1, self.started.num_rounds))

    def _left_seconds(self) -> float | None:
        """Until the last round ends, at the pace of this one; None before its first step and after its last."""
        done = self._round_frac()
        if self.phase != "training" or self.started is None or done == 0:
            return None
        return max(0.0, self.updated - self.began) / done * (self.started.num_rounds - self.round + 1 - done)

    def _clients(self) -> list[Sections]:
        return [self._client(domain) for domain in self.domains]

    def _client(self, domain: str) -> Sections:
        step, found = self._step_now(domain), self.outcomes.get((self.round, domain))
        unscored = self.outcomes.get((0, domain))
        values: Sections = {"domain": domain, "state": "training" if step else "waiting", "reason": ""}
        if step:
            values |= {"step": step.step, "num_steps": step.num_steps, "loss": finite(step.loss_nats)}
            values["tokens_per_second"] = finite(step.tokens_per_second)
        if isinstance(found, ReplyEvent):
            before, after = finite(found.bits_per_byte_before), finite(found.bits_per_byte_after)
            values |= {"state": "replied", "before": before, "after": after}
        if missed := next((o for o in (found, unscored) if isinstance(o, DroppedEvent)), None):
            values |= {"state": "dropped", "reason": missed.reason}
        return values

    def _replies(self, domain: str) -> list[ReplyEvent]:
        found = sorted((o for o in self.outcomes.values() if isinstance(o, ReplyEvent)), key=lambda r: r.round)
        return [reply for reply in found if reply.domain == domain]

    def _bits(self) -> list[Sections]:
        curves = {d: round_points(self._replies(d)) for d in self.domains}
        return [
            {"name": d, "points": [[finite(x), finite(y)] for x, y in points]} for d, points in curves.items() if points
        ]

    def _matrix(self) -> Sections:
        shown = self.evaluation or self._so_far()
        rows = [asdict(row) for row in heat_rows(shown)]
        return {"columns": list(shown.domains), "rows": rows, "is_final": self.evaluation is not None}

    def _so_far(self) -> Evaluation:
        """The clients' own scores: at the start, and after every round."""
        replies = {d: self._replies(d) for d in self.domains}
        values = [(BASE, d, found[0].bits_per_byte_before) for d, found in replies.items() if found]
        rounds = sorted({reply.round for found in replies.values() for reply in found})
        for number in rounds:
            row = f"trained in round {number}"
            values += [(row, d, r.bits_per_byte_after) for d, f in replies.items() for r in f if r.round == number]
        return Evaluation(
            cells=tuple(Cell(m, d, v, 1, 1) for m, d, v in values if finite(v) is not None and v is not None)
        )


def finite(value: float | None) -> float | None:
    """JSON knows no other numbers."""
    return value if value is not None and math.isfinite(value) else None


def _seconds(time: str) -> float:
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return 0.0


def _read(kind: Any, values: Any) -> Any:
    return _adapter(kind).validate_python(values)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
