"""The lines that a run writes into its logs, as typed values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from pydantic import TypeAdapter


@dataclass(frozen=True)
class RunStarted:
    """The process that runs the rounds began, or began again."""

    run: str
    base: str
    domains: list[str]
    num_rounds: int
    resumed: bool = False
    schedule: str = "parallel"


@dataclass(frozen=True)
class ReplyEvent:
    """What one client returned in one round, and its held-out bits per byte before and after its training."""

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
    """A client that did not count in a round; round 0 stands for before the first round, or for the scoring."""

    round: int
    domain: str
    reason: str


Outcome = ReplyEvent | DroppedEvent


@dataclass(frozen=True)
class RoundDone:
    """The totals of one round; `energy_cut_frac` is the part of the merged update lost by the cut to the server's rank."""

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
    """One training step of one client; `num_tokens` counts over the client's whole run."""

    round: int
    step: int
    num_tokens: int
    loss_nats: float
    num_steps: int = 0
    tokens_per_second: float | None = None


@dataclass(frozen=True)
class Effort:
    """What one round of training took a client; the memory is the process's peak so far."""

    round: int
    seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class BaselineStarted:
    """A baseline begins or continues; `num_left_tokens` counts this baseline and all that follow it."""

    baseline: str
    num_left_tokens: int


@dataclass(frozen=True)
class BaselineStep:
    """One training step of a baseline; `num_tokens` counts this baseline alone."""

    baseline: str
    step: int
    num_steps: int
    num_tokens: int
    loss_nats: float
    tokens_per_second: float


@dataclass(frozen=True)
class SeedEvent:
    """A seed of the run began or finished; it is the `number`-th of `num_seeds`."""

    seed: int
    number: int
    num_seeds: int


@dataclass(frozen=True)
class Moment:
    """When something happened, and what; `reason` is empty where the event gives none."""

    time: str
    event: str
    reason: str


def parse(kind: Any, values: Any) -> Any:
    """`values` as `kind`; unknown fields are ignored.

    Raises:
        ValidationError: a field is missing or of another type.
    """
    return _adapter(kind).validate_python(values)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def moment_of(values: Mapping[str, Any]) -> Moment:
    """The time, kind and reason of one line of `events.jsonl`; what is missing is empty."""
    return Moment(*(str(values.get(key, "")) for key in ("time", "event", "reason")))


def unix_seconds(time: str) -> float:
    """An ISO time as seconds since 1970; 0 where it cannot be read."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return 0.0
