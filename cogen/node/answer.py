"""What the ClientApp calls: records of a Flower message in, records of the reply out. No torch is imported here.

The node's own settings say which kind of domain this is. In a simulation they hold `partition-id`: the run folder, which
every request names, has the domain's corpus. In a real federation `cogen join` put `socket` there: the trainer
process listens on it, and every reply has a receipt, written before the reply is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from cogen.config import load_config
from cogen.errors import CogenError
from cogen.node.ask import ask
from cogen.node.home import NodeHome
from cogen.node.node import Node, Site
from cogen.node.policy import refused
from cogen.node.receipt import SentMessage, record
from cogen.node.resident import ResidentTrainer
from cogen.node.unusual import unusual_settings, warning
from cogen.protocol.messages import (
    FLOWER_TYPES,
    EvaluateRequest,
    Message,
    Reply,
    Request,
    SuspendRequest,
    TrainRequest,
    pack,
    unpack_request,
)
from cogen.protocol.wire import Frame, from_records, to_records
from cogen.runs import RunFolder, append_line

Records = Mapping[str, Mapping[str, Any]]


class Refusal(Exception):
    """The one line that a domain sends instead of a reply."""


def answer(
    kind: str, records: Records, nonce: str, node_config: Mapping[str, Any], seconds: float | None = None
) -> dict[str, dict[str, bytes]]:
    """The records of the reply to one message.

    Args:
        kind: Flower's message type.
        records: the records of the request.
        nonce: of the request, as hex digits; the reply begins with it.
        node_config: the node's own settings.
        seconds: how long the coordinator waits for the reply; a joined domain works no longer on it.
    Raises:
        Refusal: a joined domain refuses, or fails; the reason may be sent. A simulated domain raises what went wrong.
    """
    if "socket" not in node_config:
        request = unpack_request(from_records(records))
        return to_records(pack(_simulated(request, int(node_config["partition-id"]))), bytes.fromhex(nonce))
    return _joined(kind, records, nonce, NodeHome(Path(str(node_config["socket"])).parent), seconds)


@lru_cache(maxsize=1)
def resident() -> ResidentTrainer:
    """One trainer process for all messages that this process handles."""
    return ResidentTrainer()


def _simulated(request: Request, number: int) -> Message:
    """The reply of the simulated domain of this number; a node without a domain has an empty name."""
    run = RunFolder(request.run)
    config = load_config(run.config)
    site = Site(domain="", data="", base=config.base.name)
    if number < len(config.domains):
        domain = config.domains[number]
        site = Site(domain=domain.name, data=str(domain.data), base=config.base.name)
    if isinstance(request, TrainRequest | EvaluateRequest):
        return resident().call(site, request, run.logs)
    return Node(site).answer(request)


def _joined(
    kind: str, records: Records, nonce: str, home: NodeHome, seconds: float | None
) -> dict[str, dict[str, bytes]]:
    """The reply of a domain that has joined; its receipt is on the disk before this returns."""
    receipt = _Receipt(home.receipts, kind)
    try:
        asked = from_records(records)
        if lines := unusual_settings(asked.header):
            append_line(home.work, warning("", 0, lines))
            raise refused("requests that leave this domain's text to it", lines[0].removeprefix("asks for "))
        request = unpack_request(asked)
        if FLOWER_TYPES[type(request)] != kind:  # its receipt would say that something else was asked
            raise refused(f"a message of the type {FLOWER_TYPES[type(request)]}", "another type")
        receipt.run, receipt.round = request.run, getattr(request, "round", 0)
        frame = pack(_ask(request, home, seconds))
        content = to_records(frame, bytes.fromhex(nonce))
        receipt.write(_sent(frame, content))
    except Exception as error:
        logging.getLogger(__name__).exception("failed")
        raise Refusal(receipt.write_refusal(reason_of(error))) from None
    return content


def _ask(request: Request, home: NodeHome, seconds: float | None) -> Reply:
    """The trainer process answers, but for a suspension, which needs none."""
    if isinstance(request, SuspendRequest):
        member = home.read_member()
        return Node(Site(domain=member.domain, data=member.data, base=member.base), home).answer(request)
    return ask(home.socket, request, seconds=seconds)


class _Receipt:
    """The receipt of one message; run and round are empty until the request has been read."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind = path, kind.partition(".")[0]
        self.run, self.round = "", 0

    def write(self, sent: SentMessage) -> None:
        record(self.path, self.run, self.round, self.kind, sent)

    def write_refusal(self, reason: str) -> str:
        """What is sent instead of a reply: `reason`, or that there could be no receipt for it."""
        try:
            self.write(SentMessage(error=reason))
        except Exception:
            logging.getLogger(__name__).exception("no receipt")
            return "the domain could not write a receipt, and so sends nothing"
        return reason


def reason_of(error: Exception) -> str:
    """The reason that a coordinator gets: an error's own line if it is marked as safe to share, else only its type."""
    if isinstance(error, CogenError) and error.is_shareable:
        return str(error)
    return f"failed at the domain ({type(error).__name__}); its own log says why"


def sections(header: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The fields of a message for its receipt: nested ones under their names, the others under `message`."""
    nested = {key: dict(value) for key, value in header.items() if isinstance(value, dict)}
    return {"message": {k: v for k, v in header.items() if k not in nested}, **nested}


def _sent(frame: Frame, content: Mapping[str, Mapping[str, bytes]]) -> SentMessage:
    """All that a reply holds: its arrays, numbers and texts, and the bytes that Flower gets."""
    pieces = [piece for part in content.values() for piece in part.values()]
    arrays = {"factors": frame.arrays} if frame.arrays else {}
    return SentMessage(arrays, sections(frame.header), content=pieces)
