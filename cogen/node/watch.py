"""What a member's programs are doing, from the files that they write: for `cogen join` to show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cogen.node.home import NodeHome
from cogen.node.receipt import is_layout

# As Flower's SuperNode logs it.
CONNECTED, AGAIN, LOST = b"SuperNode ID:", b"Connection successful after", b"Connection attempt failed"


class Tail:
    """New whole lines of a file since the last look; what was there at first is passed over."""

    def __init__(self, path: Path, *, skip: bool = True) -> None:
        self.path = path
        self.at = path.stat().st_size if skip and path.is_file() else 0

    def lines(self) -> list[bytes]:
        """Lines that are complete; a file that was made anew is read from its start."""
        if not self.path.is_file():
            return []
        if self.path.stat().st_size < self.at:
            self.at = 0
        with open(self.path, "rb") as file:
            file.seek(self.at)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.at += len(whole)
        return whole.splitlines()


class HomeWatcher:
    """Events of a member's folder, in order of arrival: connected, lost, work, step, sent."""

    def __init__(self, home: NodeHome) -> None:
        self.home = home
        self._node, self._work = Tail(home.logs / "supernode.log"), Tail(home.work)
        self._sent, self._lost = Tail(home.receipts), False
        self._steps = {path: Tail(path) for path in self._training_logs()}

    def new(self) -> Iterator[dict[str, Any]]:
        """Events since the last call."""
        for line in self._node.lines():
            if CONNECTED in line or (AGAIN in line and self._lost):
                self._lost = False
                yield {"event": "connected"}
            elif LOST in line and not self._lost:
                self._lost = True
                yield {"event": "lost"}
        for values in _json(self._work):
            yield {**values, "event": "work"}
        for path in self._training_logs():
            tail = self._steps.setdefault(path, Tail(path, skip=False))
            for values in _json(tail):
                yield {**values, "event": "step"}
        for values in _json(self._sent):
            if not is_layout(values):
                yield {**values, "event": "sent"}

    def _training_logs(self) -> list[Path]:
        return sorted(self.home.path.glob("runs/*/train.jsonl"))


def _json(tail: Tail) -> Iterator[dict[str, Any]]:
    import json

    for line in tail.lines():
        try:
            values = json.loads(line)
        except ValueError:  # torn by a process that died
            continue
        if isinstance(values, dict):
            yield values
