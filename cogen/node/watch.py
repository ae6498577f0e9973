"""What a member's programs do, from the files that they write; `cogen join` shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cogen.node.home import NodeHome
from cogen.node.receipt import is_layout
from cogen.runs import Tail

# Lines that Flower's SuperNode logs.
CONNECTED, AGAIN, LOST = b"SuperNode ID:", b"Connection successful after", b"Connection attempt failed"


class HomeWatcher:
    """Events of a member's folder, in order of arrival: connected, lost, work, step, sent."""

    def __init__(self, home: NodeHome) -> None:
        self.home = home
        self._node = Tail(home.logs / "supernode.log", skip_existing=True)
        self._work = Tail(home.work, skip_existing=True)
        self._sent, self._lost = Tail(home.receipts, skip_existing=True), False
        self._steps = {path: Tail(path, skip_existing=True) for path in self._training_logs()}

    def new(self) -> Iterator[dict[str, Any]]:
        """Events since the last call."""
        for line in self._node.lines():
            if CONNECTED in line or (AGAIN in line and self._lost):
                self._lost = False
                yield {"event": "connected"}
            elif LOST in line and not self._lost:
                self._lost = True
                yield {"event": "lost"}
        for values in filter(None, self._work.records()):
            yield {**values, "event": "work"}
        for path in self._training_logs():
            tail = self._steps.setdefault(path, Tail(path))
            for values in filter(None, tail.records()):
                yield {**values, "event": "step"}
        for values in filter(None, self._sent.records()):
            if not is_layout(values):
                yield {**values, "event": "sent"}

    def _training_logs(self) -> list[Path]:
        return sorted(self.home.path.glob("runs/*/train.jsonl"))
