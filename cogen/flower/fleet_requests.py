"""The ten requests of a Flower node, checked before SuperLink sees them: a member speaks for itself and answers only.

SuperLink authenticates a member's node and believes the rest: it takes an instruction from a member, and holds its
database for as long as it takes to write down all that is announced. So the gateway decodes each request with Flower's
own classes and refuses what an honest node never sends.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, recorddict_pb2, run_pb2
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from cogen.protocol.messages import FLOWER_TYPES, TrainRequest
from cogen.protocol.wire import MAX_DEPTH, MAX_OBJECTS, NONCE_BYTES, PIECE

SUPERLINK = 1  # Flower's node id of SuperLink
SMALL_OBJECTS = 3  # of a reply without factors, which has one record
MIN_HEARTBEAT_SECONDS, MAX_HEARTBEAT_SECONDS = 10.0, 60.0  # Flower's nodes say 30
MAX_REASON_BYTES = 65_536
MAX_TTL_SECONDS, MAX_CREATED_AT = 366 * 86400.0, 4e9  # the year 2096
OBJECT_ID = re.compile(r"[0-9a-f]{64}")
SESSION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
GROUP_ID = re.compile(rf"[0-9a-f]{{{2 * NONCE_BYTES}}}")
OBJECT_HEAD = re.compile(rb"(Message|RecordDict|ConfigRecord) ([0-9a-f,]{0,4224}) [0-9]{1,9}\x00")
MAX_NAMES_BYTES = 16_384  # of the object that names the records of a message


class BadRequest(Exception):
    """A request that no honest node sends; the text says why, for the gateway's log."""


@dataclass(frozen=True)
class Sender:
    """The member whose key signed a request.

    Args:
        node_id: of its Flower node, as `members.json` has it; SuperLink compares the key with its own list.
        public_key: PEM.
    """

    domain: str
    node_id: int
    public_key: bytes


REQUESTS: dict[str, Any] = {
    "activate-node": fleet_pb2.ActivateNodeRequest,
    "deactivate-node": fleet_pb2.DeactivateNodeRequest,
    "send-node-heartbeat": heartbeat_pb2.SendNodeHeartbeatRequest,
    "pull-messages": fleet_pb2.PullMessagesRequest,
    "push-messages": fleet_pb2.PushMessagesRequest,
    "get-run": run_pb2.GetRunRequest,
    "get-fab": fab_pb2.GetFabRequest,
    "push-object": message_pb2.PushObjectRequest,
    "pull-object": message_pb2.PullObjectRequest,
    "confirm-message-received": message_pb2.ConfirmMessageReceivedRequest,
}


def check_request(name: str, body: bytes, sender: Sender) -> None:
    """Refuse a request that an honest node of `sender` would not send.

    Args:
        name: the last part of the request's path, one of REQUESTS.
    Raises:
        BadRequest: bytes that are no such request, another node's number, an instruction, too many objects, ...
    """
    asked = _decoded(REQUESTS[name], body)
    node_id = asked.node_id if name == "deactivate-node" else None
    if name != "activate-node":
        node_id = asked.node.node_id if node_id is None else node_id
        _require(node_id == sender.node_id, "another node's number")
    CHECKS[name](asked, sender)


def _decoded(kind: Any, body: bytes) -> Any:
    """The message of this kind, which is all of `body`: no unknown field, no field twice, no default spelled out."""
    try:
        made = kind.FromString(body)
    except DecodeError:
        raise BadRequest("not a request of this kind") from None
    made.DiscardUnknownFields()
    _require(made.ByteSize() == len(body), "more bytes than its fields take")
    return made


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BadRequest(otherwise)


def _require_id(object_id: str) -> None:
    _require(OBJECT_ID.fullmatch(object_id) is not None, "an object id that is no sha256")


def _check_interval(seconds: float) -> None:
    _require(MIN_HEARTBEAT_SECONDS <= seconds <= MAX_HEARTBEAT_SECONDS, f"heartbeats every {seconds:g} s")


def _check_activation(asked: Any, sender: Sender) -> None:
    _require(asked.public_key == sender.public_key, "another member's key")
    _check_interval(asked.heartbeat_interval)


def _check_heartbeat(asked: Any, _: Sender) -> None:
    _check_interval(asked.heartbeat_interval)


def _check_pull(asked: Any, _: Sender) -> None:
    _require(not asked.message_ids, "a choice of messages")


def _check_run(asked: Any, _: Sender) -> None:
    _require(asked.run_id > 0, "no run")


def _check_fab(asked: Any, sender: Sender) -> None:
    _check_run(asked, sender)
    _require_id(asked.hash_str)


def _check_object_name(asked: Any, sender: Sender) -> None:
    _check_run(asked, sender)
    _require_id(asked.object_id)


def _check_confirmation(asked: Any, sender: Sender) -> None:
    _check_run(asked, sender)
    _require_id(asked.message_object_id)


def _check_announcement(asked: Any, sender: Sender) -> None:
    """One reply of this node, without its content, and the ids of its objects."""
    counts = len(asked.messages_list), len(asked.message_object_trees), len(asked.clientapp_runtime_list)
    _require(counts == (1, 1, 1), f"{counts} messages, trees and runtimes")
    (message,), (tree,), (seconds,) = asked.messages_list, asked.message_object_trees, asked.clientapp_runtime_list
    _require(math.isfinite(seconds) and seconds >= 0.0, "a runtime that is no number of seconds")
    _check_reply(message, sender, message.metadata.run_id)
    _require(message.metadata.message_id == tree.object_id, "a message with the objects of another one")
    ids = list(_ids(tree))
    _require(len(set(ids)) == len(ids), "an object twice")
    for object_id in ids:
        _require_id(object_id)
    is_small = message.metadata.message_type != FLOWER_TYPES[TrainRequest]
    _require(len(ids) <= (SMALL_OBJECTS if is_small else MAX_OBJECTS), "too many objects")
    has_error = message.HasField("error")
    _require(has_error == (len(ids) == 1), "an error with content, or a reply without")
    _require(has_error or len(tree.children) == 1, "a message with several contents")


def _ids(tree: Any) -> Iterator[str]:
    """The object ids of a tree, until there are too many or they are too deep."""
    waiting, found = [(tree, 1)], 0
    while waiting:
        node, depth = waiting.pop()
        found += 1 + len(node.children)
        _require(depth <= MAX_DEPTH and found <= 2 * MAX_OBJECTS, "too many objects")
        waiting += [(child, depth + 1) for child in node.children]
        yield node.object_id


def _check_reply(message: Any, sender: Sender, run_id: int) -> None:
    """The sender's own reply to an instruction, whose content are its objects or an error."""
    about = message.metadata
    _require(about.run_id == run_id > 0, "another run")
    _require(about.src_node_id == sender.node_id, "a message of another node")
    _require(about.dst_node_id == SUPERLINK, "a message for another node than SuperLink")
    _require(OBJECT_ID.fullmatch(about.reply_to_message_id) is not None, "an instruction; members send replies only")
    _require(GROUP_ID.fullmatch(about.group_id) is not None, "a reply without the nonce of its request")
    _require(about.message_type in FLOWER_TYPES.values(), "a message of an unknown type")
    _require(0.0 < about.ttl <= MAX_TTL_SECONDS and 0.0 < about.created_at <= MAX_CREATED_AT, "an impossible time")
    _require(not message.content.ByteSize(), "content that is not in its objects")
    _require(len(message.error.reason.encode()) <= MAX_REASON_BYTES, "a reason that is too long")


def _check_object(asked: Any, sender: Sender) -> None:
    """An object under its own hash; a message in it is a reply of this node in this run."""
    _check_object_name(asked, sender)
    _require(SESSION_ID.fullmatch(asked.session_id) is not None, "no session")
    content = asked.object_content
    _require(hashlib.sha256(content).hexdigest() == asked.object_id, "an object with another one's id")
    head = OBJECT_HEAD.match(content)
    _require(head is not None, "an object of another kind or with another head than Flower's")
    assert head is not None
    kind, children, body = head[1], head[2], content[head.end() :]
    if kind == b"Message":
        _require(len(children) <= 64, "a message with several contents")
        _check_reply(_decoded(message_pb2.Message, body), sender, asked.run_id)
    elif kind == b"RecordDict":
        _require(len(body) <= MAX_NAMES_BYTES, "records with long names")
    else:
        _check_record(_decoded(recorddict_pb2.ConfigRecord, body), children)


def _check_record(record: Any, children: bytes) -> None:
    """A part of a frame: one value, bytes. A list of numbers would take twenty times its size at the server app."""
    fields = [(item.key, item.value.WhichOneof("value")) for item in record.items]
    _require(fields == [(PIECE, "bytes")] and not children, "a record that is no part of a frame")


def _nothing_more(asked: Any, _: Sender) -> None: ...


CHECKS: dict[str, Callable[[Any, Sender], None]] = {
    "activate-node": _check_activation,
    "deactivate-node": _nothing_more,
    "send-node-heartbeat": _check_heartbeat,
    "pull-messages": _check_pull,
    "push-messages": _check_announcement,
    "get-run": _check_run,
    "get-fab": _check_fab,
    "push-object": _check_object,
    "pull-object": _check_object_name,
    "confirm-message-received": _check_confirmation,
}


def activated_node(body: bytes) -> int:
    """The node's number in SuperLink's answer to `activate-node`; 0 for an answer of another form."""
    try:
        return int(fleet_pb2.ActivateNodeResponse.FromString(body).node_id)
    except DecodeError:
        return 0
