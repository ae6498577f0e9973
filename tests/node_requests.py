"""The ten requests of Flower's node, as an honest one sends them and with single fields changed."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, recorddict_pb2, run_pb2
from flwr.proto.error_pb2 import Error
from flwr.proto.node_pb2 import Node

from tests.running_gateway import NodeKey

RUN, SESSION, ASKED = 4242, "0b7a55f4-1b1e-4c0a-9d0e-2f5a9a1f0c11", hashlib.sha256(b"the instruction").hexdigest()


def as_record(content: bytes, *, key: str = "frame", **value: Any) -> bytes:
    """A record of a reply as the content of an object; `value` sets another field than bytes."""
    made = recorddict_pb2.ConfigRecordValue(**(value or {"bytes": content}))
    body = recorddict_pb2.ConfigRecord(items=[recorddict_pb2.ConfigRecord.Item(key=key, value=made)])
    return f"ConfigRecord  {body.ByteSize()}".encode() + b"\x00" + body.SerializeToString()


OBJECT = as_record(b"whole")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def reply_to(key: NodeKey, **changed: Any) -> message_pb2.Message:
    """A reply of the node without content; `changed` sets fields of its metadata."""
    about: dict[str, Any] = {"run_id": RUN, "src_node_id": key.node_id, "dst_node_id": 1, "reply_to_message_id": ASKED}
    about |= {"group_id": "0f" * 16, "ttl": 60.0, "message_type": "train", "created_at": time.time()}
    return message_pb2.Message(metadata=message_pb2.Metadata(**{**about, **changed}))


def tree(*children: message_pb2.ObjectTree, name: str = "root") -> message_pb2.ObjectTree:
    """A tree of objects, with the sha256 of the name as its root."""
    return message_pb2.ObjectTree(object_id=sha256(name.encode()), children=children)


def records(num: int) -> message_pb2.ObjectTree:
    """The objects of a reply with so many records."""
    return tree(tree(*(tree(name=f"record {i}") for i in range(num)), name="content"))


def announcement(key: NodeKey, objects: message_pb2.ObjectTree | None = None, **changed: Any) -> Any:
    """A push of one reply; `changed` sets fields of its metadata."""
    objects = records(1) if objects is None else objects
    said = reply_to(key, **{"message_id": objects.object_id, **changed})
    return fleet_pb2.PushMessagesRequest(
        node=Node(node_id=key.node_id),
        messages_list=[said],
        message_object_trees=[objects],
        clientapp_runtime_list=[1.5],
    )


def failure(key: NodeKey, reason: str = "it failed", **changed: Any) -> Any:
    """A push of an error."""
    made = announcement(key, tree(), **changed)
    made.messages_list[0].error.CopyFrom(Error(code=2, reason=reason))
    return made


def pushed(key: NodeKey, content: bytes = OBJECT, **changed: Any) -> Any:
    """One object."""
    about = {"run_id": RUN, "object_id": sha256(content), "session_id": SESSION, "object_content": content}
    return message_pb2.PushObjectRequest(node=Node(node_id=key.node_id), **{**about, **changed})


def as_object(message: message_pb2.Message, child: str = "") -> bytes:
    """A message as the content of an object."""
    body = message.SerializeToString()
    return f"Message {child} {len(body)}".encode() + b"\x00" + body


def honest(key: NodeKey) -> dict[str, Any]:
    """One of each."""
    node = Node(node_id=key.node_id)
    return {
        "activate-node": fleet_pb2.ActivateNodeRequest(public_key=key.pem, heartbeat_interval=30.0),
        "deactivate-node": fleet_pb2.DeactivateNodeRequest(node_id=key.node_id),
        "send-node-heartbeat": heartbeat_pb2.SendNodeHeartbeatRequest(node=node, heartbeat_interval=30.0),
        "pull-messages": fleet_pb2.PullMessagesRequest(node=node),
        "push-messages": announcement(key),
        "get-run": run_pb2.GetRunRequest(node=node, run_id=RUN),
        "get-fab": fab_pb2.GetFabRequest(node=node, run_id=RUN, hash_str="e" * 64),
        "push-object": pushed(key),
        "pull-object": message_pb2.PullObjectRequest(node=node, run_id=RUN, object_id=ASKED),
        "confirm-message-received": message_pb2.ConfirmMessageReceivedRequest(
            node=node, run_id=RUN, message_object_id=ASKED
        ),
    }


def body_of(key: NodeKey, path: str) -> bytes:
    """The body of an honest request to this path."""
    body: bytes = honest(key)[path.rpartition("/")[2]].SerializeToString()
    return body
