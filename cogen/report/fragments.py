"""The sections of a run's page as fragments of HTML, rendered again when the run folder has changed."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path

from cogen.errors import RunError
from cogen.report.page import SECTIONS, STEP_SECTIONS
from cogen.report.reader import Replaced, RunReader
from cogen.runs import RunFolder

POLL_SECONDS = 1.0


class Fragments:
    """All sections of the page, each with the version at which it last changed.

    The folder is read at most once in `POLL_SECONDS`, however many browsers ask.
    """

    def __init__(self, run: Path) -> None:
        self.run = RunFolder(run)
        self._last_read = -POLL_SECONDS
        self._begin()

    def _begin(self) -> None:
        # Versions count within one reading of the folder; a page with the id of another reading gets everything.
        self.reading, self.version = secrets.token_hex(4), 0
        self._reader = RunReader(self.run, self._note_malformed)
        self._sections: dict[str, tuple[int, str]] = {}
        self._report = (0, False)

    def _note_malformed(self, error: RunError | OSError) -> None:
        """Show the error of a file that cannot be read among the events; the page continues without the file."""
        self._reader.record.lines.append({"event": "file_unreadable", "reason": str(error)})

    def refresh(self, *, at_once: bool = False) -> None:
        """Read what is new and render what it changes, unless that was done less than `POLL_SECONDS` ago."""
        if not at_once and time.monotonic() - self._last_read < 0.9 * POLL_SECONDS:
            return
        self._last_read = time.monotonic()
        try:
            self._reader.read()
        except Replaced:
            self._begin()
            self._reader.read()
        self._render()

    def message(self, last_id: str) -> str:
        """What changed since the message `last_id`, as one server-sent event; empty if nothing did."""
        reading, _, version = last_id.partition("-")
        since = int(version) if reading == self.reading and version.isdigit() else -1
        if since == self.version:
            return ""
        fresh = {name: html for name, (changed_at, html) in self._sections.items() if changed_at > since}
        body = {"now": round(time.time(), 3), "has_report": self._report[1], "sections": fresh}
        return f"id: {self.last_id}\ndata: {json.dumps(body, separators=(',', ':'))}\n\n"

    @property
    def last_id(self) -> str:
        """The id of the newest message."""
        return f"{self.reading}-{self.version}"

    def _render(self) -> None:
        """Render the sections that may have changed, and give those that did the next version."""
        reader, version = self._reader, self.version + 1
        names = tuple(SECTIONS) if reader.has_changed else STEP_SECTIONS if reader.has_stepped else ()
        reader.has_changed = reader.has_stepped = False
        for name in names:
            html = str(SECTIONS[name](reader.record, True))
            if name not in self._sections or self._sections[name][1] != html:
                self._sections[name] = version, html
        has_report = (self.run.path / "report.html").is_file()
        if self._report[1] != has_report:
            self._report = version, has_report
        self.version = max(self._report[0], *(changed_at for changed_at, _ in self._sections.values()))
