"""An in-process Grid: the real ClientApp answers the real ServerApp; faults replace replies."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from clients.client_app import app as client_app

Fault = Callable[[Message, Message], Message | None]


class InProcessGrid(Grid):
    """One node per domain; `faults` maps a node's index to the fault in its reply to a train message.

    A fault gets the message and the reply, and returns another reply, or None for silence. What a
    client raises becomes an error reply, as in Flower's own runtimes. `node_config` gives a node's own
    settings by its index; a simulation's are its number alone.
    """

    def __init__(
        self,
        num_nodes: int,
        faults: dict[int, Fault] | None = None,
        node_config: Callable[[int], dict[str, Any]] = lambda node: {"partition-id": node},
    ) -> None:
        self.node_config = node_config
        self.num_nodes = num_nodes
        self.faults = faults or {}
        self.replies: dict[str, Message] = {}
        self.seen: list[Message] = []
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1  # Flower sets these in its programs

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return [100 + i for i in range(self.num_nodes)]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
            ids.append(message.metadata.message_id)
            self._handle(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self.replies.pop(i) for i in list(message_ids) if i in self.replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def _handle(self, message: Message) -> None:
        node = message.metadata.dst_node_id - 100
        context = Context(
            run_id=1, node_id=100 + node, node_config=self.node_config(node), state=RecordDict(), run_config={}
        )
        fault = self.faults.get(node) if message.metadata.message_type == "train" else None
        try:
            reply: Message | None = client_app(message, context)
        except Exception as error:
            reply = Message(Error(code=2, reason=str(error)), reply_to=message)
        if fault is not None and reply is not None:
            reply = fault(message, reply)
        if reply is not None:
            self.seen.append(reply)
            self.replies[message.metadata.message_id] = reply
