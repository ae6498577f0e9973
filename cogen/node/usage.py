"""What a domain has done in the last 24 hours, whatever the runs were called: rounds, scorings, bytes.

Every round and every scoring is written to `usage.jsonl` before it begins, so a restart, a failure or a broken connection
does not make it free. Lines whose time is still to come count too, so a clock that is set back resets nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from cogen.runs import append_line, read_lines

DAY = timedelta(hours=24)
Kind = Literal["round", "round figure", "figure"]
FINISHED, GIVEN = "finished", "given"


class Usage:
    """The counters of a member's folder, in `path`; bytes are those of its receipts."""

    def __init__(self, path: Path, receipts: Path) -> None:
        self.path, self.receipts = path, receipts

    def begun(self, *kinds: Kind, now: datetime | None = None) -> set[str]:
        """The keys of what was begun in the last 24 hours."""
        return {line["key"] for line in self._today(self.path, now) if line.get("kind") in kinds}

    def begin(self, kind: Kind, key: str, now: datetime | None = None) -> None:
        """Note that a round or a scoring begins, unless it was noted today."""
        if key not in self.begun(kind, now=now):
            time = (now or datetime.now(UTC)).isoformat()
            append_line(self.path, {"time": time, "kind": kind, "key": key}, durable=True)

    def count_key(self, key: str) -> str:
        """The key under which a round counts: another one each time that it is trained to its end.

        A round that goes on after a break counts once. One whose reply is no longer kept is trained, and counts, again.
        """
        num_before = sum(line.get("kind") == FINISHED and line.get("key") == key for line in read_lines(self.path))
        return f"{key} {num_before}"

    def finish(self, key: str) -> None:
        """Note that a round was trained to its end."""
        append_line(self.path, {"time": datetime.now(UTC).isoformat(), "kind": FINISHED, "key": key}, durable=True)

    def bytes_sent(self, now: datetime | None = None) -> int:
        """Bytes of arrays that were sent in the last 24 hours."""
        return sum(int(line["num_bytes"]) for line in self._today(self.receipts, now) if "num_bytes" in line)

    def keep_figure(self, key: str, values: Mapping[str, Any]) -> None:
        """Note the figure of a scoring, which is given again when the same is asked."""
        append_line(self.path, {"time": datetime.now(UTC).isoformat(), "kind": GIVEN, "key": key, **values})

    def figure(self, key: str) -> dict[str, Any] | None:
        """The figure of that scoring, of any day; None if it was not given yet."""
        found = [line for line in read_lines(self.path) if line.get("kind") == GIVEN and line.get("key") == key]
        return found[-1] if found else None

    @staticmethod
    def _today(path: Path, now: datetime | None) -> list[dict[str, Any]]:
        since = (now or datetime.now(UTC)) - DAY
        return [line for line in read_lines(path) if "time" in line and datetime.fromisoformat(line["time"]) > since]
