"""A member of a real federation with a client of its own: it enrols, signs, and says to the gateway what it likes."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from cogen.deploy.invites import read_invite
from tests.running_gateway import NodeKey

FLEET = "/v1/fleet/"
PROTOBUF = {"content-type": "application/protobuf", "accept": "application/protobuf"}


class HostileMember:
    """The member that an invite is for.

    Attributes:
        statuses: of its wrong requests, by name of the attack.
    """

    def __init__(self, invite: Path) -> None:
        self.invite, self.key = read_invite(invite), NodeKey()
        trusted = ssl.create_default_context(cadata=self.invite.ca)
        base = f"https://{self.invite.address}"
        self.http = httpx.Client(base_url=base, verify=trusted, trust_env=False, timeout=120.0)
        self.statuses: dict[str, list[int]] = {}

    def enrol(self) -> None:
        """Join the federation and connect the node."""
        about = {"token": self.invite.token, "domain": self.invite.domain, "app_sha256": self.invite.app_sha256}
        about |= {"public_key": self.key.line, "fingerprint": self.invite.fingerprint.model_dump()}
        self.key.node_id = self.http.post("/enrol", json=about).raise_for_status().json()["node_id"]
        activation = fleet_pb2.ActivateNodeRequest(public_key=self.key.pem, heartbeat_interval=60.0)
        assert self.say("activate-node", activation).status_code == 200

    @property
    def node(self) -> Node:
        return Node(node_id=self.key.node_id)

    def say(self, name: str, request: Any, headers: list[tuple[str, str]] | None = None) -> httpx.Response:
        """One request, signed now unless it has `headers` of its own."""
        signed = [*self.key.headers().items(), *PROTOBUF.items()] if headers is None else headers
        return self.http.post(FLEET + name, content=request.SerializeToString(), headers=signed)

    def attack(self, what: str, name: str, request: Any, headers: list[tuple[str, str]] | None = None) -> None:
        """A request that must be refused; its status is kept."""
        self.statuses.setdefault(what, []).append(self.say(name, request, headers).status_code)

    def beat(self) -> float:
        """A heartbeat, which must be answered; how long that took [seconds]."""
        began = time.monotonic()
        beat = heartbeat_pb2.SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=60.0)
        assert self.say("send-node-heartbeat", beat).status_code == 200
        return time.monotonic() - began

    def pull(self) -> Message | None:
        """The next message for this node, whole and confirmed; None where there is none."""
        found = fleet_pb2.PullMessagesResponse.FromString(
            self.say("pull-messages", fleet_pb2.PullMessagesRequest(node=self.node)).content
        )
        if not found.messages_list:
            return None
        (about,), (tree,) = found.messages_list, found.message_object_trees
        run = about.metadata.run_id
        contents = {t.object_id: self.object(run, t.object_id) for t in iterate_object_tree(tree)}
        message = inflate_object_from_contents(tree.object_id, contents)
        assert isinstance(message, Message)
        message.metadata.__dict__["_message_id"] = tree.object_id
        got = message_pb2.ConfirmMessageReceivedRequest(node=self.node, run_id=run, message_object_id=tree.object_id)
        self.say("confirm-message-received", got)
        return message

    def object(self, run: int, object_id: str) -> bytes:
        """An object of the store."""
        asked = message_pb2.PullObjectRequest(node=self.node, run_id=run, object_id=object_id)
        while True:
            found = message_pb2.PullObjectResponse.FromString(self.say("pull-object", asked).content)
            if found.object_available:
                return found.object_content

    def push(self, message: Message) -> None:
        """Send a reply, whole, as an honest node does."""
        answer = self.say("push-messages", announcement(self.node, message))
        assert answer.status_code == 200, answer
        told = fleet_pb2.PushMessagesResponse.FromString(answer.content)
        for object_id, made in get_all_nested_objects(message).items():
            if object_id in told.objects_to_push:
                content = made.deflate()
                about = {"run_id": message.metadata.run_id, "session_id": told.session_id, "object_id": object_id}
                pushed = message_pb2.PushObjectRequest(node=self.node, object_content=content, **about)
                assert self.say("push-object", pushed).status_code == 200


def announcement(
    node: Node, message: Message, tree: message_pb2.ObjectTree | None = None, about: Mapping[str, Any] | None = None
) -> fleet_pb2.PushMessagesRequest:
    """The announcement of a message by `node`.

    Args:
        tree: its objects, where they are not those of the message.
        about: fields of its metadata that are changed.
    """
    message.metadata.__dict__["_message_id"] = message.object_id
    bare = message_to_proto(remove_content_from_message(message) if message.has_content() else message)
    for name, value in (about or {}).items():
        setattr(bare.metadata, name, value)
    tree = tree or get_object_tree(message)
    bare.metadata.message_id = tree.object_id
    return fleet_pb2.PushMessagesRequest(
        node=node, messages_list=[bare], message_object_trees=[tree], clientapp_runtime_list=[0.0]
    )


def reply(asked: Message, content: RecordDict) -> Message:
    """A reply with this content."""
    return Message(content, reply_to=asked)
