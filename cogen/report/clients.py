"""What every client of a run did and took: a line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cogen.report.record import Effort, ReplyEvent, RunRecord


@dataclass(frozen=True)
class ClientRow:
    """One client over all rounds.

    Args:
        num_rounds, num_dropped: in which it counted, and did not.
        seconds: from being asked to the reply. train_seconds: of that, training; None where no log lies here.
        peak_memory_bytes: of the process that trained it, which may have trained others too.
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


def client_rows(record: RunRecord) -> list[ClientRow]:
    """All clients that replied or were dropped, in the run's order."""
    missed = [client.domain for client in record.dropped if client.round > 0]
    domains = dict.fromkeys([*record.domains, *missed])
    replies = {d: [reply for reply in record.replies if reply.domain == d] for d in domains}
    rows = [_row(d, found, record.efforts.get(d, ()), missed.count(d)) for d, found in replies.items()]
    return [row for row in rows if row.num_rounds or row.num_dropped]


def _row(domain: str, replies: Sequence[ReplyEvent], efforts: Sequence[Effort], num_dropped: int) -> ClientRow:
    counted = {reply.round for reply in replies}
    efforts = [effort for effort in efforts if effort.round in counted]
    num_tokens, seconds = sum(r.num_tokens for r in replies), sum(r.seconds for r in replies)
    train_seconds = sum(e.seconds for e in efforts) if len(efforts) == len(replies) and efforts else None
    spent = train_seconds or seconds
    return ClientRow(
        domain=domain,
        num_rounds=len(replies),
        num_dropped=num_dropped,
        num_tokens=num_tokens,
        seconds=seconds,
        train_seconds=train_seconds,
        tokens_per_second=num_tokens / spent if spent else None,
        peak_memory_bytes=max((e.peak_memory_bytes for e in efforts), default=None),
        bytes_up=sum(r.bytes_up for r in replies),
        bytes_down=sum(r.bytes_down for r in replies),
    )
