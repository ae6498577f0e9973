"""The nonce of each request: another for each node, and its reply begins with it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

from cogen.protocol.messages import HelloReply, HelloRequest, pack
from cogen.protocol.wire import nonce_of
from server.transport import Transport
from tests.in_process_grid import InProcessGrid
from tests.message_content import content_of

REPLY = HelloReply(domain="grid", max_rank=0, max_tokens_per_round=0, evaluates=True, version="1")


class Grid(InProcessGrid):
    """Keeps the messages; `say` puts a reply to one of them."""

    def __init__(self) -> None:
        super().__init__(2)
        self.sent: list[Message] = []
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
            self.sent.append(message)
        return [message.metadata.message_id for message in self.sent]

    def say(self, to: Message, nonce: bytes) -> None:
        self.replies[to.metadata.message_id] = Message(content_of(pack(REPLY), nonce), reply_to=to)


def test_a_reply_without_the_nonce_of_its_request_is_refused() -> None:
    """Red: a node could be answered for with what everybody knows. Red: one nonce for all nodes of a round."""
    grid, rejected = Grid(), list[str]()
    transport = Transport(grid, rejected.append)
    waiting = transport.send(dict.fromkeys((100, 101), HelloRequest(run="r")), 60.0)
    first, second = grid.sent
    nonces = [bytes.fromhex(m.metadata.group_id) for m in grid.sent]
    assert len(set(nonces)) == 2 and all(len(n) == 16 for n in nonces)
    assert first.content is second.content  # equal requests travel once
    shared = nonce_of(first.content.config_records)
    assert shared not in nonces
    for wrong in (nonces[1], shared, bytes(16)):
        grid.say(first, wrong)
        ((_, answer),) = transport.answers({first.metadata.message_id: 100}, 0.0)
        assert answer.reply is None and "nonce of its request" in answer.error
        transport._nonces[first.metadata.message_id] = nonces[0]
    for message, nonce in zip(grid.sent, nonces, strict=True):
        grid.say(message, nonce)
    assert [answer.reply for _, answer in transport.answers(waiting, 1.0)] == [REPLY, REPLY]
    assert not waiting and not transport._nonces and not rejected


def test_the_nonce_is_new_each_time() -> None:
    grid = Grid()
    transport = Transport(grid, print)
    for _ in range(3):
        transport.send({100: HelloRequest(run="r")}, 60.0)
    assert len({m.metadata.group_id for m in grid.sent}) == 3
    assert len({nonce_of(m.content.config_records) for m in grid.sent}) == 3
