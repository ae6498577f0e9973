"""What a run folder says happened, read once and put in order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from cogen.errors import RunError
from cogen.evaluate.matrix import Evaluation
from cogen.report.artifacts import Artifacts, read_beside

T = TypeVar("T")
State = Literal["finished", "failed", "unfinished"]


@dataclass(frozen=True)
class Started:
    """The process began, or began again."""

    run: str
    base: str
    domains: list[str]
    num_rounds: int
    resumed: bool = False


@dataclass(frozen=True)
class ReplyEvent:
    """What one client returned in one round, and its held-out bits per byte around its training."""

    round: int
    domain: str
    rank: int
    num_tokens: int
    seconds: float
    bytes_up: int
    bytes_down: int
    bits_per_byte_before: float | None = None
    bits_per_byte_after: float | None = None


@dataclass(frozen=True)
class DroppedEvent:
    """A client that did not count in a round."""

    round: int
    domain: str
    reason: str


Outcome = ReplyEvent | DroppedEvent


@dataclass(frozen=True)
class RoundDone:
    """The sum of one round; `energy_cut_frac` is what the cut to the server's rank threw away."""

    round: int
    num_valid: int
    num_clients: int
    num_tokens: int
    bytes_up: int
    bytes_down: int
    seconds: float
    bits_per_byte_before: float | None = None
    bits_per_byte_after: float | None = None
    energy_cut_frac: float | None = None


@dataclass(frozen=True)
class StepEvent:
    """One logged training step of one client; `num_tokens` counts over the whole run."""

    round: int
    step: int
    num_tokens: int
    loss_nats: float


@dataclass(frozen=True)
class Effort:
    """What one round's training took a client; the memory is the process's peak so far."""

    round: int
    seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Moment:
    """When something happened, and what; `reason` where the event gives one."""

    time: str
    event: str
    reason: str


@dataclass(frozen=True)
class RunRecord:
    """One run. Where a round was run again after a stop, only the last time is in here."""

    name: str
    started: Started | None
    moments: tuple[Moment, ...]
    replies: tuple[ReplyEvent, ...]
    dropped: tuple[DroppedEvent, ...]
    rounds: Mapping[int, RoundDone | None]
    steps: Mapping[str, tuple[StepEvent, ...]]
    num_unreadable: int
    evaluation: Evaluation | None
    config: str
    adapters: tuple[str, ...]
    efforts: Mapping[str, tuple[Effort, ...]] = field(default_factory=dict)
    artifacts: Artifacts = field(default_factory=Artifacts)

    @property
    def state(self) -> State:
        """What the last start, end or failure says."""
        ends = [m.event for m in self.moments if m.event in ("run_started", "run_finished", "run_failed")]
        states: dict[str, State] = {"run_finished": "finished", "run_failed": "failed"}
        return states.get(ends[-1], "unfinished") if ends else "unfinished"

    @property
    def domains(self) -> tuple[str, ...]:
        """The run's domains; without a start event, those that left a trace."""
        named = self.started.domains if self.started else []
        return tuple(dict.fromkeys([*named, *(reply.domain for reply in self.replies), *self.steps]))


def read_run(run: Path) -> RunRecord:
    """Read everything a report needs from a run folder; each part may be missing.

    Raises:
        RunError: there is no run in the folder, or its evaluation.json is malformed.
    """
    if not (run / "events.jsonl").is_file() and not (run / "evaluation.json").is_file():
        raise RunError(
            "no run to report",
            expected="a run folder with events.jsonl or evaluation.json",
            got="neither" if run.is_dir() else "no such folder",
            where=str(run),
            fix="Name a folder that `cogen simulate` or `cogen evaluate` has written.",
        )
    rows, bad_lines = read_lines(run / "events.jsonl")
    moments = [Moment(*(str(row.get(key, "")) for key in ("time", "event", "reason"))) for row in rows]
    starts, bad_starts = _parse(TypeAdapter(Started), [row for row in rows if row.get("event") == "run_started"])
    outcomes, rounds, bad_outcomes = _replay(rows)
    order = starts[-1].domains if starts else []
    steps, bad_steps = _read_logs(run, "train.jsonl", StepEvent, order, lambda step: (step.round, step.step))
    efforts, bad_efforts = _read_logs(run, "rounds.jsonl", Effort, order, lambda effort: effort.round)
    return RunRecord(
        name=starts[-1].run if starts else run.resolve().name,
        started=starts[-1] if starts else None,
        moments=tuple(moments),
        replies=tuple(outcome for outcome in outcomes if isinstance(outcome, ReplyEvent)),
        dropped=tuple(outcome for outcome in outcomes if isinstance(outcome, DroppedEvent)),
        rounds=rounds,
        steps=steps,
        num_unreadable=bad_lines + bad_starts + bad_outcomes + bad_steps + bad_efforts,
        evaluation=_read_evaluation(run / "evaluation.json"),
        config=_read_text(run / "config.toml"),
        adapters=tuple(str(path.parent.relative_to(run)) for path in _manifests(run)),
        efforts=efforts,
        artifacts=read_beside(run),
    )


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects of a .jsonl file, and how many lines could not be read.

    A process that is killed leaves half a line at the end; that one is dropped uncounted.
    """
    lines = [line for line in _read_text(path).split("\n") if line.strip()]
    found: list[dict[str, Any]] = []
    num_bad = 0
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
        except ValueError:
            num_bad += number < len(lines)
            continue
        if isinstance(values, dict):
            found.append(values)
        else:
            num_bad += 1
    return found, num_bad


def _parse(kind: TypeAdapter[T], rows: Iterable[Mapping[str, Any]]) -> tuple[list[T], int]:
    """The rows as `kind`, and how many lack a field or hold a wrong one."""
    found: list[T] = []
    num_bad = 0
    for row in rows:
        try:
            found.append(kind.validate_python(row))
        except ValidationError:
            num_bad += 1
    return found, num_bad


def _replay(rows: Iterable[Mapping[str, Any]]) -> tuple[list[Outcome], dict[int, RoundDone | None], int]:
    """The last outcome of each (round, domain), the rounds, and how many events could not be read."""
    outcomes: dict[tuple[int, str], Outcome] = {}
    rounds: dict[int, RoundDone | None] = {}
    kinds: dict[str, TypeAdapter[Any]] = {
        "client_replied": TypeAdapter(ReplyEvent),
        "client_dropped": TypeAdapter(DroppedEvent),
        "round_finished": TypeAdapter(RoundDone),
    }
    num_bad = 0
    for row in rows:
        if row.get("event") == "round_started" and isinstance(row.get("round"), int):
            rounds.setdefault(row["round"], None)
        kind = kinds.get(str(row.get("event")))
        events, bad = _parse(kind, [row]) if kind else ([], 0)
        num_bad += bad
        for event in events:
            rounds.setdefault(event.round, None)
            if isinstance(event, RoundDone):
                rounds[event.round] = event
            else:
                outcomes[event.round, event.domain] = event
    return [outcomes[key] for key in sorted(outcomes)], dict(sorted(rounds.items())), num_bad


def _read_logs(
    run: Path, name: str, kind: type[T], order: Sequence[str], key: Callable[[T], Any]
) -> tuple[dict[str, tuple[T, ...]], int]:
    """A log of each node, the last line with a key counting, and how many lines could not be read."""
    paths = {path.parent.name: path for path in run.glob(f"nodes/*/{name}")}
    reader = TypeAdapter(kind)
    found: dict[str, tuple[T, ...]] = {}
    num_bad = 0
    for domain in sorted(paths, key=lambda d: (order.index(d) if d in order else len(order), d)):
        rows, bad_lines = read_lines(paths[domain])
        values, bad_values = _parse(reader, rows)
        last = {key(value): value for value in values}
        found[domain] = tuple(last[at] for at in sorted(last))
        num_bad += bad_lines + bad_values
    return found, num_bad


def _read_evaluation(path: Path) -> Evaluation | None:
    return Evaluation.load_if_present(path)


def _read_text(path: Path) -> str:
    """The text of a file, empty when missing; broken UTF-8 (a write cut off) is no reason to stop."""
    return path.read_bytes().decode("utf-8", errors="replace") if path.is_file() else ""


def _manifests(run: Path) -> list[Path]:
    return [
        path for path in [run / "merged" / "cogen.json", *sorted(run.glob("experts/*/cogen.json"))] if path.exists()
    ]
