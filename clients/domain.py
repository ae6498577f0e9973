"""A domain of a real federation, as its ClientApp sees it: a socket to ask, and a receipt for all that leaves."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict

from cogen.errors import CogenError, FederationError
from cogen.node.ask import ask
from cogen.node.receipt import SentMessage, record
from cogen.protocol.wire import Frame, from_records, to_records
from cogen.runs import append_line

FAILED = 2  # Flower's code for a ClientApp that raised
Handler = Callable[[Frame, Context], Frame]


class Caller(Protocol):
    """Whoever asks a trainer for the domain of one message."""

    domain: str

    def ask(self, action: str, arrays: Mapping[str, Any] | None = None, **more: Any) -> Frame: ...

    def note(self, action: str) -> None:
        """Write down what the coordinator tells the domain, for `cogen join` to show."""


class Deployed:
    """A domain with a resident trainer of its own, at the socket that the node's own settings name."""

    def __init__(self, request: Mapping[str, Any], context: Context) -> None:
        self.request = dict(request)
        self.domain = str(context.node_config["domain"])
        self.socket = Path(str(context.node_config["socket"]))

    def ask(self, action: str, arrays: Mapping[str, Any] | None = None, **more: Any) -> Frame:
        answer = ask(self.socket, action, arrays, **self.request, **more)
        if "error" in answer.header:
            raise TrainerRefusal(str(answer.header["error"]))
        return answer

    def note(self, action: str) -> None:
        told = {key: int(self.request[key]) for key in ("round", "num_failures")}  # numbers; no text of another's
        append_line(self.socket.with_name("work.jsonl"), {"action": action, **told})


class TrainerRefusal(FederationError):
    """The line that the trainer made for the coordinator."""

    leaves = True

    def __init__(self, line: str) -> None:
        Exception.__init__(self, line)


def answered(handler: Handler) -> Callable[[Message, Context], Message]:
    """The handler's frame as a reply; where there is a domain's folder, with a receipt written first.

    What fails there leaves as one line that was made for it; in a simulation it is raised as it is.
    """

    @functools.wraps(handler)
    def handle(message: Message, context: Context) -> Message:
        if "socket" not in context.node_config:
            return Message(sealed(handler(opened(message), context)), reply_to=message)
        request: Mapping[str, Any] = {}
        try:
            asked = opened(message)
            request = asked.header.get("request", {})
            frame = handler(asked, context)
            content = sealed(frame)
            _write_receipt(message, request, context, plain(frame, content))
        except Exception as error:
            logging.getLogger(__name__).exception("failed")
            return _refusal(message, request, context, reason_of(error))
        return Message(content, reply_to=message)

    return handle


def _refusal(message: Message, request: Mapping[str, Any], context: Context, reason: str) -> Message:
    """An error reply with its receipt; without one, the fixed line that says just this."""
    try:
        _write_receipt(message, request, context, SentMessage(error=reason))
    except Exception:
        logging.getLogger(__name__).exception("no receipt")
        reason = "the domain could not write a receipt, and so sends nothing"
    return Message(Error(code=FAILED, reason=reason), reply_to=message)


def reason_of(error: Exception) -> str:
    """What a coordinator is told: a line that was made to leave, or no more than the kind of error."""
    if isinstance(error, CogenError) and error.leaves:
        return str(error)
    return f"failed at the domain ({type(error).__name__}); its own log says why"


def opened(message: Message) -> Frame:
    """What a request says."""
    return from_records(message.content.config_records)


def sealed(frame: Frame) -> RecordDict:
    """The content of a reply."""
    return RecordDict({name: ConfigRecord(dict(record)) for name, record in to_records(frame).items()})


def plain(frame: Frame, content: RecordDict) -> SentMessage:
    """All that a reply holds: its arrays, numbers and texts, and the bytes that Flower gets."""
    pieces = [p for record in content.config_records.values() for p in record.values() if isinstance(p, bytes)]
    return SentMessage({"factors": frame.arrays} if frame.arrays else {}, frame.header, content=pieces)


def _write_receipt(message: Message, request: Mapping[str, Any], context: Context, reply: SentMessage) -> None:
    number = request.get("round", 0)
    path = Path(str(context.node_config["socket"])).with_name("receipts.jsonl")
    kind = message.metadata.message_type.partition(".")[0]
    record(path, str(request.get("run", "")), number if isinstance(number, int) else 0, kind, reply)
