"""The table of rounds: one row a round, and one for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cogen.report.events import ReplyEvent
from cogen.report.record import RunRecord


@dataclass(frozen=True)
class RoundRow:
    """A line of the table of rounds; `clients` is empty in the line of all rounds."""

    name: str
    clients: str
    num_tokens: int
    bits_per_byte_before: float | None
    bits_per_byte_after: float | None
    bytes_up: int
    bytes_down: int
    seconds: float
    energy_cut_frac: float | None


def round_rows(record: RunRecord) -> list[RoundRow]:
    """A finished round as the server reported it; an open one as the sum of its replies so far."""
    replies: dict[int, list[ReplyEvent]] = {}
    for reply in record.replies:
        replies.setdefault(reply.round, []).append(reply)
    return [_row(record, number, replies.get(number, [])) for number in sorted(record.rounds)]


def total_row(rows: Sequence[RoundRow]) -> RoundRow | None:
    """The sum of several rounds, from the first score to the last one; None for a single round."""
    if len(rows) < 2:
        return None
    return RoundRow(
        name="all",
        clients="",
        num_tokens=sum(r.num_tokens for r in rows),
        bits_per_byte_before=rows[0].bits_per_byte_before,
        bits_per_byte_after=next(
            (r.bits_per_byte_after for r in reversed(rows) if r.bits_per_byte_after is not None), None
        ),
        bytes_up=sum(r.bytes_up for r in rows),
        bytes_down=sum(r.bytes_down for r in rows),
        seconds=sum(r.seconds for r in rows),
        energy_cut_frac=None,
    )


def _row(record: RunRecord, number: int, replies: Sequence[ReplyEvent]) -> RoundRow:
    done = record.rounds[number]
    if done is None:
        return _open_row(number, replies)
    return RoundRow(
        name=str(number),
        clients=f"{done.num_valid} of {done.num_clients}",
        num_tokens=done.num_tokens,
        bits_per_byte_before=done.bits_per_byte_before,
        bits_per_byte_after=done.bits_per_byte_after,
        bytes_up=done.bytes_up,
        bytes_down=done.bytes_down,
        seconds=done.seconds,
        energy_cut_frac=done.energy_cut_frac,
    )


def _open_row(number: int, replies: Sequence[ReplyEvent]) -> RoundRow:
    return RoundRow(
        name=f"{number}, not finished",
        clients=f"{len(replies)} so far",
        num_tokens=sum(r.num_tokens for r in replies),
        bits_per_byte_before=None,
        bits_per_byte_after=None,
        bytes_up=sum(r.bytes_up for r in replies),
        bytes_down=sum(r.bytes_down for r in replies),
        seconds=max((r.seconds for r in replies), default=0.0),
        energy_cut_frac=None,
    )
