"""Requests to nodes, and their replies until a deadline. A reply that answers no open request is rejected.

Each message carries a nonce as Flower's group id. The node begins its reply with it, so no other node can know the id of
an object of that reply. The content of a request begins with a nonce of its own, one for all nodes with equal requests.

A reply is announced before its content has arrived. Flower's grid then sleeps one second before it looks again, then two;
`cogen.flower.patches` shortens that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Message, RecordDict

from cogen.console import safe
from cogen.errors import MessageError
from cogen.protocol.messages import FLOWER_TYPES, FailureReply, Reply, Request, pack, unpack_reply
from cogen.protocol.wire import from_records, new_nonce, nonce_of, to_records

if TYPE_CHECKING:
    from flwr.serverapp import Grid

POLL_SECONDS = 0.1
MAX_POLL_SECONDS = 0.5
KEEP_SECONDS = 60.0  # for which Flower keeps a message after its deadline
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
    """What came back: a reply, or in one line why there is none.

    Args:
        is_gone: Flower considers the node lost; it may come back.
    """

    reply: Reply | None
    error: str = ""
    is_gone: bool = False


class Transport:
    """Sends requests and collects replies over Flower's grid.

    Args:
        reject: called with the reason when a reply answers no open request.
    """

    def __init__(self, grid: Grid, reject: Callable[[str], None]) -> None:
        self.grid, self._reject = grid, reject
        self._nonces: dict[str, bytes] = {}  # of the open requests, by message id

    def send(self, requests: Mapping[int, Request], seconds: float) -> dict[str, int]:
        """Send each node its request; returns message ids and their nodes, without those that Flower did not take.

        Args:
            seconds: how long replies will be waited for.
        """
        made: dict[tuple[str, int], RecordDict] = {}  # nodes with equal requests share one content
        messages, nonces = [], []
        for node, request in requests.items():
            frame = pack(request)
            key = json.dumps(frame.header, sort_keys=True), id(request.arrays)
            if key not in made:
                records = to_records(frame, new_nonce())
                made[key] = RecordDict({n: ConfigRecord(dict(r)) for n, r in records.items()})
            kind, ttl, nonce = FLOWER_TYPES[type(request)], seconds + KEEP_SECONDS, new_nonce()
            messages.append(Message(made[key], message_type=kind, dst_node_id=node, ttl=ttl, group_id=nonce.hex()))
            nonces.append(nonce)
        ids = list(self.grid.push_messages(messages)) if messages else []
        self._nonces |= {i: nonce for i, nonce in zip(ids, nonces, strict=False) if i}
        return {i: node for i, node in zip(ids, requests, strict=False) if i}  # no ids where the payload is too large

    def answers(
        self, waiting: MutableMapping[str, int], seconds: float, enough: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[str, Answer]]:
        """Each message's id and answer as they come, until all are there, `enough` says so, or the time is over.

        Args:
            waiting: message id to node; answered ones are removed.
        """
        until, pause = time.monotonic() + seconds, POLL_SECONDS
        while waiting:
            for message in self.grid.pull_messages(list(waiting)):
                number = message.metadata.reply_to_message_id
                if self._is_rejected(number, message, waiting):
                    continue
                del waiting[number]
                yield number, read_answer(message, self._nonces.pop(number))
                pause = POLL_SECONDS
            left = until - time.monotonic()
            if not waiting or left <= 0 or enough():
                return
            time.sleep(min(pause, left))
            pause = min(1.2 * pause, MAX_POLL_SECONDS)

    def _is_rejected(self, number: str, message: Message, waiting: Mapping[str, int]) -> bool:
        """Whether it answers no open request, or comes from another node than was asked."""
        source = message.metadata.src_node_id
        if number not in waiting:
            self._reject(f"a reply from node {source} to no open request: repeated, replayed or late")
        elif not message.has_error() and source != waiting[number]:  # an error may be Flower's own
            self._reject(f"a reply from node {source} to a request for node {waiting[number]}")
        else:
            return False
        return True


def read_answer(message: Message, nonce: bytes) -> Answer:
    """The reply in a message, or why there is none.

    Args:
        nonce: of its request, with which the reply must begin.
    """
    if message.has_error():
        return Answer(None, reason_of(message), message.error.code == GONE)
    try:
        records = message.content.config_records
        frame = from_records(records)
        if nonce_of(records) != nonce:
            raise ValueError("expected the nonce of its request")
        reply = unpack_reply(frame)
    except (MessageError, ValueError, TypeError) as error:
        return Answer(None, f"reply refused: {safe(error, REASON_CHARACTERS)}")
    return Answer(None, "an error") if isinstance(reply, FailureReply) else Answer(reply)


def reason_of(message: Message) -> str:
    """Why a message is an error, in one line: in plain words for Flower's codes, else the node's own line."""
    error = message.error
    if error.code in PLAIN:
        return f"error {error.code}: {PLAIN[error.code]}"
    lines = [line.strip() for line in (error.reason or "").splitlines() if line.strip()]
    return f"error {error.code}: {safe(lines[-1] if lines else 'no reason given', REASON_CHARACTERS)}"
