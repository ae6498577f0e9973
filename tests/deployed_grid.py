"""An in-process deployment: members on disk, nodes that connect and disconnect, limits per node, late replies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Message

from cogen.protocol.wire import Frame
from cogen.runs import RunFolder
from tests.in_process_grid import Fault, InProcessGrid
from tests.message_content import frame_of, header_of, rewrite

FIRST_NODE = 100


def write_members(folder: Path, domains: Iterable[str], revoked: Iterable[str] = ()) -> None:
    """Node 100 + i stands for the i-th of `domains`."""
    gone = set(revoked)
    rows = [
        {
            "domain": domain,
            "public_key": "ecdsa-sha2-nistp384 AAAA",
            "node_id": FIRST_NODE + i,
            "enrolled": "2026-01-01T00:00:00+00:00",
            "revoked": "2026-01-02T00:00:00+00:00" if domain in gone else None,
            "last_seen": None,
        }
        for i, domain in enumerate(domains)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "members.json").write_text(json.dumps({"format": 1, "members": rows}))


class DeployedGrid(InProcessGrid):
    """Nodes get only the id of the run; this grid tells the clients of the test its folder.

    Args:
        limits: a node's index to additional fields of its hello.
        before: called with the grid and each train message before it is handled.
    """

    def __init__(
        self,
        run: RunFolder,
        num_nodes: int,
        faults: dict[int, Fault] | None = None,
        limits: Mapping[int, Mapping[str, Any]] | None = None,
        before: Callable[[DeployedGrid, Message], None] | None = None,
    ) -> None:
        super().__init__(num_nodes, faults)
        self.of_run, self.limits, self.before = run, limits or {}, before
        self.connected = set(range(num_nodes))
        self.extra: list[Message] = []
        self.requests: list[tuple[int, str, dict[str, Any]]] = []
        self.arrays: list[tuple[int, str, list[str]]] = []

    def get_node_ids(self) -> Iterable[int]:
        return [FIRST_NODE + i for i in sorted(self.connected)]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        extra, self.extra = self.extra, []
        return [*extra, *super().pull_messages(message_ids)]

    def _handle(self, message: Message) -> None:
        node, kind = message.metadata.dst_node_id - FIRST_NODE, message.metadata.message_type
        asked = frame_of(message)
        self.requests.append((node, kind, dict(asked.header)))
        self.arrays.append((node, kind, list(asked.arrays)))
        if kind == "train" and self.before is not None:
            self.before(self, message)
        rewrite(message, Frame({**asked.header, "run": str(self.of_run.path)}, asked.arrays))
        super()._handle(message)
        rewrite(message, asked)  # one content may be for all nodes
        reply = self.replies.get(message.metadata.message_id)
        if kind == "query.hello" and reply is not None and not reply.has_error():
            rewrite(reply, Frame({**header_of(reply), **self.limits.get(node, {})}))

    def asked(self, kind: str = "train") -> dict[int, list[int]]:
        """By round: the nodes that got a request."""
        found: dict[int, list[int]] = {}
        for node, of, request in self.requests:
            if of == kind:
                found.setdefault(int(request["round"]), []).append(node)
        return found
