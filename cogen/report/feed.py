"""A run folder read as it grows: only what is new, at most once a pause, whoever asks."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Any

from cogen.errors import RunError
from cogen.evaluate.matrix import Evaluation
from cogen.report.live import LiveRun
from cogen.runs import RunFolder, Tail

POLL_SECONDS = 1.0


class Replaced(Exception):
    """A file is no longer the one that was read."""


class Reader:
    """One run folder into a `LiveRun`: its events, its clients' and its baselines' steps, its matrix."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.live = run, LiveRun()
        self._events, self._baselines = Tail(run.events_path), Tail(run.baseline_steps)
        self._steps: dict[str, Tail] = {}
        self._scored = (0, 0.0)
        self._seeds: dict[int, Reader] = {}

    def read(self) -> None:
        """Take what is new.

        Raises:
            Replaced: the folder is another one now.
        """
        for values in self._new(self._events):
            self._count(values) if values is None else self.live.add_event(values)
        for domain in _entries(self.run.path / "nodes"):
            tail = self._steps.setdefault(domain, Tail(self.run.node(domain) / "train.jsonl"))
            for values in self._new(tail):
                self._count(values) if values is None else self.live.add_step(domain, values, tail.written)
        for values in self._new(self._baselines):
            self._count(values) if values is None else self.live.add_baseline_step(values, self._baselines.written)
        self._read_evaluation()
        for name in _entries(self.run.path / "seeds"):
            if name.isdecimal():
                self._read_seed(int(name))

    def _new(self, tail: Tail) -> list[dict[str, Any] | None]:
        found = tail.records()
        if tail.generation:
            raise Replaced
        return found

    def _read_seed(self, seed: int) -> None:
        """A run folder of its own, which is a part of this page."""
        reader = self._seeds.setdefault(seed, Reader(self.run.seed(seed)))
        reader.read()
        self.live.seeds[seed] = reader.live
        if reader.live.changed:
            reader.live.changed = set()
            self.live.updated = max(self.live.updated, reader.live.updated)
            self.live.changed |= {"run", "scoring"}

    def _count(self, _: None) -> None:
        self.live.num_unreadable += 1
        self.live.changed.add("run")

    def _read_evaluation(self) -> None:
        try:
            found = self.run.evaluation.stat()
        except FileNotFoundError:
            return
        if (found.st_ino, found.st_mtime) == self._scored:
            return
        self._scored = found.st_ino, found.st_mtime
        try:
            self.live.set_evaluation(Evaluation.load(self.run.evaluation))
        except RunError as error:
            self.live.add_event({"event": "evaluation_unreadable", "reason": str(error)})


class Feed:
    """The sections of the page, each with the version at which it last changed."""

    def __init__(self, run: Path) -> None:
        self.run = RunFolder(run)
        self._asked = 0.0
        self._begin()

    def _begin(self) -> None:
        # Versions count within one reading of the folder; a page that comes from another one gets everything.
        self.reading, self.version = secrets.token_hex(4), 0
        self._reader = Reader(self.run)
        self._sections: dict[str, tuple[int, str]] = {}

    def refresh(self, *, at_once: bool = False) -> None:
        """Read what is new, unless that was done less than a pause ago."""
        if not at_once and time.monotonic() - self._asked < 0.9 * POLL_SECONDS:
            return
        self._asked = time.monotonic()
        try:
            self._reader.read()
        except Replaced:
            self._begin()
            self._reader.read()
        self._publish()

    def message(self, last_id: str) -> str:
        """What changed since the message `last_id`, as one server-sent event; empty if nothing did."""
        reading, _, version = last_id.partition("-")
        is_known = reading == self.reading and version.isdigit()
        since = int(version) if is_known else -1
        if since == self.version:
            return ""
        fresh = [f"{json.dumps(name)}:{text}" for name, (at, text) in self._sections.items() if at > since]
        kind = "change" if is_known else "state"
        body = f'{{"now":{time.time():.3f},"sections":{{{",".join(fresh)}}}}}'
        return f"id: {self.last_id}\nevent: {kind}\ndata: {body}\n\n"

    @property
    def last_id(self) -> str:
        """The name of the newest message."""
        return f"{self.reading}-{self.version}"

    def _publish(self) -> None:
        """Number the sections that differ from what was shown."""
        live = self._reader.live
        self._put("folder", {"path": str(self.run.path), "has_report": (self.run.path / "report.html").is_file()})
        for name in live.changed:
            self._put(name, live.section(name))
        live.changed = set()
        self.version = max(at for at, _ in self._sections.values())

    def _put(self, name: str, values: Any) -> None:
        text = json.dumps(values, separators=(",", ":"), allow_nan=False)
        if self._sections.get(name, (0, ""))[1] != text:
            self._sections[name] = self.version + 1, text


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
