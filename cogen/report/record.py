"""What is known of one run, kept up to date line by line while its logs are read."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from cogen.evaluate.matrix import Evaluation
from cogen.report.artifacts import Artifacts
from cogen.report.events import (
    DroppedEvent,
    Effort,
    Moment,
    Outcome,
    ReplyEvent,
    RoundDone,
    RunStarted,
    SeedEvent,
    StepEvent,
    moment_of,
    parse,
    unix_seconds,
)
from cogen.report.training import Baselines, Curve

MAX_LINES = 100
Phase = Literal["waiting", "starting", "training", "scoring", "scored", "baseline", "comparing", "finished", "failed"]
PHASES: dict[str, Phase] = {
    "run_started": "starting",
    "evaluated": "scored",
    "run_finished": "finished",
    "run_failed": "failed",
}
BASELINE_EVENTS = ("baseline_started", "baseline_trained", "baseline_failed")


@dataclass
class RunRecord:
    """One run. Where a round or a step came again after a stop, only the last time counts.

    Attributes:
        folder: the name of the run folder.
        rounds_phase: where the rounds stand; `phase` adds the baselines and the further seeds.
        reason: why the run, or scoring it, failed.
        round: the last round that began; `round_began` is when [seconds since 1970].
        updated: when the folder was last seen to change [seconds since 1970].
        lines: the last events as they were written.
        outcomes: what each client did in each round.
        last_steps: each client's last step, and when its log was written [seconds since 1970].
        seed: the seed that is worked on; None without seeds and after the last one.
        seeds: the records of the further seeds, which have run folders of their own.
    """

    folder: str
    started: RunStarted | None = None
    rounds_phase: Phase = "waiting"
    reason: str = ""
    round: int = 0
    round_began: float = 0.0
    updated: float = 0.0
    moments: list[Moment] = field(default_factory=list)
    lines: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_LINES))
    outcomes: dict[tuple[int, str], Outcome] = field(default_factory=dict)
    rounds: dict[int, RoundDone | None] = field(default_factory=dict)
    last_steps: dict[str, tuple[float, StepEvent]] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    efforts: dict[str, dict[int, Effort]] = field(default_factory=dict)
    baselines: Baselines = field(default_factory=Baselines)
    seed: SeedEvent | None = None
    first_seed: int = 0
    further_seeds: range = range(0)
    seeds: dict[int, RunRecord] = field(default_factory=dict)
    num_bad_lines: int = 0
    evaluation: Evaluation | None = None
    config: str = ""
    adapters: tuple[str, ...] = ()
    artifacts: Artifacts = field(default_factory=Artifacts)

    @property
    def name(self) -> str:
        """The run's name; without a start event, that of its folder."""
        return self.started.run if self.started else self.folder

    @property
    def domains(self) -> tuple[str, ...]:
        """The run's domains, then others that replied or left a log."""
        named = self.started.domains if self.started else []
        return tuple(dict.fromkeys([*named, *(reply.domain for reply in self.replies), *sorted(self.last_steps)]))

    @property
    def replies(self) -> tuple[ReplyEvent, ...]:
        """All replies that count, by round and domain; of a relay, by round in the order of the visits."""
        by_round = sorted(self.outcomes.items(), key=lambda item: item[0][0] if self.is_relay else item[0])
        return tuple(o for _, o in by_round if isinstance(o, ReplyEvent))

    @property
    def is_relay(self) -> bool:
        """Whether the adapter visits the domains in turn."""
        return self.started is not None and self.started.schedule == "relay"

    @property
    def dropped(self) -> tuple[DroppedEvent, ...]:
        """All clients that were dropped from a round, by round and domain."""
        return tuple(o for _, o in sorted(self.outcomes.items()) if isinstance(o, DroppedEvent))

    @property
    def num_unreadable(self) -> int:
        """Lines of the logs that could not be read, in the further seeds' folders too."""
        return self.num_bad_lines + sum(record.num_unreadable for record in self.seeds.values())

    @property
    def phase(self) -> Phase:
        """Where the whole run stands: after the rounds it is finished only when its last seed has been scored."""
        if self.rounds_phase != "finished":
            return self.rounds_phase
        if self.baselines.current:
            return "baseline"
        if self.seed is None:
            return "finished"
        return "failed" if self.reason else "comparing"

    def add_event(self, values: Mapping[str, Any]) -> None:
        """Take one line of `events.jsonl`; one that cannot be read is counted."""
        moment = moment_of(values)
        self.updated = max(self.updated, unix_seconds(moment.time))
        self.moments.append(moment)
        self.lines.append(values)
        try:
            self._take(moment, values)
        except ValidationError:
            self.num_bad_lines += 1

    def _take(self, moment: Moment, values: Mapping[str, Any]) -> None:
        name = moment.event
        self.rounds_phase = PHASES.get(name, self.rounds_phase)
        if name in ("run_failed", "seed_summary_failed"):
            self.reason = moment.reason
        elif name == "run_started":
            self.started, self.round, self.reason = parse(RunStarted, values), 0, ""
        elif name == "round_started":
            self._start_round(parse(int, values.get("round")), moment.time)
        elif name in ("client_replied", "client_dropped"):
            outcome: Outcome = parse(ReplyEvent if name == "client_replied" else DroppedEvent, values)
            self.outcomes[outcome.round, outcome.domain] = outcome
            if outcome.round > 0:
                self.rounds.setdefault(outcome.round, None)
        elif name == "round_finished":
            self._finish_round(parse(RoundDone, values))
        elif name in BASELINE_EVENTS:
            self.baselines.add_event(name, values)
        elif name in ("seed_started", "seed_finished"):
            self._take_seed(parse(SeedEvent, values), is_done=name == "seed_finished")

    def _start_round(self, number: int, time: str) -> None:
        """A round that begins again starts from nothing."""
        self.round, self.round_began, self.rounds_phase = number, unix_seconds(time), "training"
        self.outcomes = {key: value for key, value in self.outcomes.items() if key[0] < number}
        self.rounds = {n: done for n, done in self.rounds.items() if n < number} | {number: None}

    def _finish_round(self, done: RoundDone) -> None:
        self.rounds[done.round] = done
        self.rounds = dict(sorted(self.rounds.items()))
        if self.started and done.round == self.started.num_rounds:
            self.rounds_phase = "scoring"

    def _take_seed(self, seed: SeedEvent, *, is_done: bool) -> None:
        self.seed = None if is_done and seed.number == seed.num_seeds else seed
        self.first_seed = seed.seed - seed.number + 1
        self.further_seeds = range(self.first_seed + 1, self.first_seed + seed.num_seeds)
        self.baselines.current, self.reason = "", ""
        if self.rounds_phase in ("waiting", "failed"):
            self.rounds_phase = "starting"

    def add_step(self, domain: str, values: Mapping[str, Any], written: float) -> None:
        """Take one line of a client's `train.jsonl`, which was written at `written` [seconds since 1970]."""
        self.updated = max(self.updated, written)
        try:
            step: StepEvent = parse(StepEvent, values)
        except ValidationError:
            self.num_bad_lines += 1
            return
        self.last_steps[domain] = written, step
        self.curves.setdefault(domain, Curve()).add(step.num_tokens, step.loss_nats)

    def add_effort(self, domain: str, values: Mapping[str, Any]) -> None:
        """Take one line of a client's `rounds.jsonl`."""
        try:
            effort: Effort = parse(Effort, values)
        except ValidationError:
            self.num_bad_lines += 1
            return
        self.efforts.setdefault(domain, {})[effort.round] = effort

    def add_baseline_step(self, values: Mapping[str, Any], written: float) -> None:
        """Take one line of `logs/baselines.jsonl`, which was written at `written` [seconds since 1970]."""
        self.updated = max(self.updated, written)
        try:
            self.baselines.add_step(values)
        except ValidationError:
            self.num_bad_lines += 1
