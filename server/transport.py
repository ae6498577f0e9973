"""Messages to nodes, and their answers until a time is over. What answers nothing that was asked is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Message, RecordDict

from cogen.protocol.wire import Frame, from_records, to_records

if TYPE_CHECKING:
    from flwr.serverapp import Grid

POLL_SECONDS = 0.1
MAX_POLL_SECONDS = 0.5
KEEP_SECONDS = 60.0  # that Flower keeps a message beyond the time in which it is waited for
REASON_CHARACTERS = 300
GONE = 5
PLAIN = {
    1: "the app could not be loaded at its node",
    3: "its reply was lost on the way, or came too late",
    4: "its reply was lost on the way",
    GONE: "its node is gone: no sign of life from it",
    6: "its node refused the message",
    7: "its node got another app than the coordinator's",
    8: "the app died at its node",
}


@dataclass(frozen=True)
class Answer:
    """What came back: a frame, or in one line why there is none.

    Args:
        is_gone: Flower gave the node up, whatever it may still send; it may come back.
    """

    frame: Frame | None
    error: str = ""
    is_gone: bool = False


class Transport:
    """Sends and collects over Flower's grid.

    Args:
        refuse: told why an answer that nobody asked for is refused.
    """

    def __init__(self, grid: Grid, refuse: Callable[[str], None]) -> None:
        self.grid, self._refuse = grid, refuse

    def send(self, kind: str, frames: Mapping[int, Frame], seconds: float) -> dict[str, int]:
        """Send each node its frame; returns ids of messages and their nodes, without those that Flower did not take.

        Args:
            seconds: for which they will be waited for.
        """
        ttl = seconds + KEEP_SECONDS
        made: dict[tuple[str, int], RecordDict] = {}  # nodes that are told the same share one content
        messages = []
        for node, frame in frames.items():
            key = json.dumps(frame.header, sort_keys=True), id(frame.arrays)
            if key not in made:
                made[key] = sealed(frame)
            messages.append(Message(made[key], message_type=kind, dst_node_id=node, ttl=ttl))
        ids = list(self.grid.push_messages(messages)) if messages else []
        return {i: node for i, node in zip(ids, frames, strict=False) if i}  # no ids where the payload is too large

    def answers(
        self, waiting: MutableMapping[str, int], seconds: float, enough: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[str, Answer]]:
        """Each message's id and answer as they come, until all are there, `enough` says so, or the time is over.

        Args:
            waiting: id of the message to node; answered ones are taken out.
        """
        until, pause = time.monotonic() + seconds, POLL_SECONDS
        while waiting:
            for answer in self.grid.pull_messages(list(waiting)):
                number = answer.metadata.reply_to_message_id
                if self._is_refused(number, answer, waiting):
                    continue
                del waiting[number]
                yield number, opened(answer)
                pause = POLL_SECONDS
            left = until - time.monotonic()
            if not waiting or left <= 0 or enough():
                return
            time.sleep(min(pause, left))
            pause = min(1.2 * pause, MAX_POLL_SECONDS)

    def _is_refused(self, number: str, answer: Message, waiting: Mapping[str, int]) -> bool:
        """Whether it answers no open message, or comes from another node than was asked."""
        source = answer.metadata.src_node_id
        if number not in waiting:
            self._refuse(f"an answer from node {source} to no open message: doubled, replayed or late")
        elif not answer.has_error() and source != waiting[number]:  # an error may be Flower's own
            self._refuse(f"an answer from node {source} to a message for node {waiting[number]}")
        else:
            return False
        return True


def sealed(frame: Frame) -> RecordDict:
    """The content of a message."""
    return RecordDict({name: ConfigRecord(dict(record)) for name, record in to_records(frame).items()})


def opened(answer: Message) -> Answer:
    """What a reply says."""
    if answer.has_error():
        return Answer(None, reason_of(answer), answer.error.code == GONE)
    try:
        return Answer(from_records(answer.content.config_records))
    except (ValueError, TypeError) as error:
        return Answer(None, f"reply refused: {error}")


def reason_of(answer: Message) -> str:
    """Why an answer is an error, in one line: plain where Flower speaks, the node's own words where it does."""
    error = answer.error
    if error.code in PLAIN:
        return f"error {error.code}: {PLAIN[error.code]}"
    lines = [line.strip() for line in (error.reason or "").splitlines() if line.strip()]
    last = "".join(c for c in (lines[-1] if lines else "no reason given") if c.isprintable())
    return f"error {error.code}: {last[:REASON_CHARACTERS]}"
