"""The clients of a run as rows: what each does in the open round, and what each did and took over all rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cogen.report.events import DroppedEvent, Effort, ReplyEvent, StepEvent
from cogen.report.record import RunRecord


@dataclass(frozen=True)
class ClientNow:
    """One client in the last round that began: waiting, training, replied or dropped (with the reason).

    Args:
        step: its last step of this round.
        reply: what it returned in this round.
    """

    domain: str
    state: str
    reason: str
    step: StepEvent | None
    reply: ReplyEvent | None

    @property
    def done_frac(self) -> float | None:
        """How far its training of this round is; None before the first step."""
        return self.step.step / self.step.num_steps if self.step and self.step.num_steps else None

    @property
    def round_frac(self) -> float:
        """How much of this round is done for this client; all of it once it replied or was dropped."""
        return 1.0 if self.state in ("replied", "dropped") else self.done_frac or 0.0


def clients_now(record: RunRecord) -> list[ClientNow]:
    """All domains of the run, in its order."""
    return [_client_now(record, domain) for domain in record.domains]


def _client_now(record: RunRecord, domain: str) -> ClientNow:
    written, step = record.last_steps.get(domain, (0.0, None))
    # A log that was written before the round began (again) tells of another round.
    if step and (step.round != record.round or written < record.round_began):
        step = None
    outcome, unscored = record.outcomes.get((record.round, domain)), record.outcomes.get((0, domain))
    reply = outcome if isinstance(outcome, ReplyEvent) else None
    missed = next((o for o in (outcome, unscored) if isinstance(o, DroppedEvent)), None)
    if missed:
        return ClientNow(domain, "dropped", missed.reason, step, reply)
    return ClientNow(domain, "replied" if reply else "training" if step else "waiting", "", step, reply)


@dataclass(frozen=True)
class ClientTotals:
    """One client over all rounds.

    Args:
        num_rounds, num_dropped: the rounds in which it counted, and in which it did not.
        seconds: from the request to the reply.
        train_seconds: the part of it that was training; None where its log is elsewhere.
        peak_memory_bytes: of the process that trained it, which may have trained other clients too.
    """

    domain: str
    num_rounds: int
    num_dropped: int
    num_tokens: int
    seconds: float
    train_seconds: float | None
    tokens_per_second: float | None
    peak_memory_bytes: int | None
    bytes_up: int
    bytes_down: int


def client_totals(record: RunRecord) -> list[ClientTotals]:
    """All clients that replied or were dropped, in the run's order."""
    missed = [client.domain for client in record.dropped if client.round > 0]
    replies: dict[str, list[ReplyEvent]] = {domain: [] for domain in [*record.domains, *missed]}
    for reply in record.replies:
        replies[reply.domain].append(reply)
    rows = [_totals(d, found, record.efforts.get(d, {}), missed.count(d)) for d, found in replies.items()]
    return [row for row in rows if row.num_rounds or row.num_dropped]


def _totals(domain: str, replies: Sequence[ReplyEvent], efforts: dict[int, Effort], num_dropped: int) -> ClientTotals:
    counted = [efforts[reply.round] for reply in replies if reply.round in efforts]
    num_tokens, seconds = sum(r.num_tokens for r in replies), sum(r.seconds for r in replies)
    train_seconds = sum(e.seconds for e in counted) if len(counted) == len(replies) and counted else None
    busy_seconds = train_seconds or seconds
    return ClientTotals(
        domain=domain,
        num_rounds=len(replies),
        num_dropped=num_dropped,
        num_tokens=num_tokens,
        seconds=seconds,
        train_seconds=train_seconds,
        tokens_per_second=num_tokens / busy_seconds if busy_seconds else None,
        peak_memory_bytes=max((e.peak_memory_bytes for e in counted), default=None),
        bytes_up=sum(r.bytes_up for r in replies),
        bytes_down=sum(r.bytes_down for r in replies),
    )
