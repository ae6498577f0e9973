"""Recorded requests of nodes in Flower's protocol: checked, decoded into replies, and signed again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization as s
from flwr.app import Message
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from cogen.protocol.wire import Frame, from_records, to_records
from tests.recording_proxy import RecordedRequest
from tests.running_gateway import NodeKey

FLEET = "/v1/fleet/"
BODIES: dict[str, Any] = {
    "activate-node": fleet_pb2.ActivateNodeRequest,
    "deactivate-node": fleet_pb2.DeactivateNodeRequest,
    "send-node-heartbeat": heartbeat_pb2.SendNodeHeartbeatRequest,
    "pull-messages": fleet_pb2.PullMessagesRequest,
    "push-messages": fleet_pb2.PushMessagesRequest,
    "push-object": message_pb2.PushObjectRequest,
    "pull-object": message_pb2.PullObjectRequest,
    "confirm-message-received": message_pb2.ConfirmMessageReceivedRequest,
    "get-run": run_pb2.GetRunRequest,
    "get-fab": GetFabRequest,
}
HEADERS = {"host", "accept", "accept-encoding", "connection", "user-agent", "content-length", "content-type"}
HEADERS |= {f"flwr-{w}" for w in ("package-name", "package-version", "component-name", "public-key")}
HEADERS |= {"flwr-timestamp", "flwr-signature"}
ENROLMENT = {"token", "domain", "public_key", "app_sha256", "fingerprint"}


def pushed_replies(requests: list[RecordedRequest]) -> list[tuple[Message, Frame]]:
    """The replies in the requests of one node, assembled from Flower's objects, in order.

    Fails unless every object belongs to a reply, every reply is complete, and each object has the hash that is its id.
    """
    objects: dict[str, bytes] = {}
    for said in requests:
        if said.path == f"{FLEET}push-object":
            one = message_pb2.PushObjectRequest.FromString(said.body)
            assert hashlib.sha256(one.object_content).hexdigest() == one.object_id
            objects[one.object_id] = one.object_content
    found, used = {}, set()
    for said in requests:
        if said.path == f"{FLEET}push-messages":
            push = fleet_pb2.PushMessagesRequest.FromString(said.body)
            (about,), (tree,) = push.messages_list, push.message_object_trees
            assert not about.content.ByteSize() and about.metadata.message_id == tree.object_id
            left = dict(objects)
            message = inflate_object_from_contents(tree.object_id, left)
            used |= objects.keys() - left.keys()
            assert isinstance(message, Message)
            found[tree.object_id] = message
    assert used == objects.keys(), "objects that belong to no reply"
    return [(message, reply_frame(message)) for message in found.values()]


def reply_frame(message: Message) -> Frame:
    """The frame of a reply, which must contain nothing else."""
    assert not message.has_error(), message.error.reason
    frame = from_records(message.content.config_records)
    nonce = bytes.fromhex(message.metadata.group_id)
    assert {name: dict(record) for name, record in message.content.items()} == to_records(frame, nonce)
    return frame


def assert_is_flower_request(said: RecordedRequest) -> None:
    """Fails unless it is a request of Flower's protocol without additional headers or fields."""
    assert said.method == "POST" and said.headers.keys() == HEADERS, said.headers
    made = BODIES[said.path.removeprefix(FLEET)].FromString(said.body)
    made.DiscardUnknownFields()
    assert made.SerializeToString() == said.body


def assert_is_join_request(said: RecordedRequest) -> None:
    """Fails unless it is one of the two requests of `cogen join`."""
    assert said.headers.keys() <= HEADERS
    if said.path == "/health":
        assert (said.method, said.body) == ("GET", b"")
        return
    assert (said.method, said.path) == ("POST", "/enrol")
    assert json.loads(said.body).keys() == ENROLMENT


def sign_again(key: Path, said: RecordedRequest) -> RecordedRequest:
    """The same request, signed now with `key`."""
    its = NodeKey()
    its.private = s.load_ssh_private_key(key.read_bytes(), None)  # type: ignore[assignment]
    public = its.private.public_key()
    its.pem = public.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    return replace(said, headers={**said.headers, **its.headers()})
