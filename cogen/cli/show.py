"""What commands share: parsing NAME=PATH, bars on stderr, one JSON object on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cogen.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress


def named_paths(items: Iterable[str], option: str) -> dict[str, str]:
    """`NAME=PATH` each; a bare path is named after its file.

    Raises:
        ConfigError: an empty part, or a name twice.
    """
    from pathlib import Path

    found: dict[str, str] = {}
    for item in items:
        name, equals, path = item.partition("=")
        if not equals:
            name, path = Path(item).stem, item
        if not name or not path or name in found:
            got = f"{name!r} twice" if name in found else repr(item)
            raise ConfigError(
                "cannot use option", expected="NAME=PATH, each name once", got=got, where=option, fix="Mend the option."
            )
        found[name] = path
    return found


def print_json(values: Any) -> None:
    """One JSON object on stdout."""
    print(json.dumps(values, indent=None, sort_keys=True))


@contextmanager
def token_bar(title: str, total: int) -> Iterator[TokenBar]:
    """A live bar with tokens, rate and time left; a line every ten seconds where there is no terminal."""
    bar = TokenBar(title, total)
    with bar.progress:
        yield bar
    bar.close()


class TokenBar:
    """Progress in tokens."""

    def __init__(self, title: str, total: int) -> None:
        import time

        self.title, self.total, self.done, self.note = title, total, 0, ""
        self.began = self.printed = time.monotonic()
        self.progress = _progress()
        self.task = self.progress.add_task(title, total=total, note="")

    def update(self, done: int, note: str = "") -> None:
        """`done` of `total` tokens, and a word on how it goes."""
        import time

        self.done, self.note = done, note
        rate = done / max(time.monotonic() - self.began, 1e-9)
        self.progress.update(self.task, completed=done, note=f"{rate:.0f} tok/s {note}")
        if not sys.stderr.isatty() and time.monotonic() - self.printed > 10:
            self.printed = time.monotonic()
            self._line()

    def close(self) -> None:
        if not sys.stderr.isatty():
            self._line()

    def _line(self) -> None:
        import time

        rate = self.done / max(time.monotonic() - self.began, 1e-9)
        left = duration((self.total - self.done) / rate) if rate > 0 else "?"
        text = f"{self.title} · {self.done}/{self.total} tokens · {rate:.0f} tok/s · {left} left {self.note}"
        print(text.rstrip(), file=sys.stderr, flush=True)


@contextmanager
def byte_bar(title: str) -> Iterator[ByteBar]:
    """A live bar in bytes through one piece of work after another; a line every ten seconds without a terminal."""
    bar = ByteBar(title)
    with bar.progress:
        yield bar


class ByteBar:
    """Progress in bytes, of work that is named anew in each of its passes."""

    def __init__(self, title: str) -> None:
        import time

        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self.title, self.what, self.printed = title, "", time.monotonic()
        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
        console = Console(stderr=True)
        self.progress = Progress(*columns, TimeRemainingColumn(), console=console, disable=not sys.stderr.isatty())

    def update(self, what: str, done: int, total: int) -> None:
        """`done` of `total` bytes of the pass `what`; a total of 0 is not known."""
        import time

        if what != self.what:
            self.what, self.began = what, time.monotonic()
            self.task = self.progress.add_task(f"{self.title} · {what}", total=total or None)
        self.progress.update(self.task, completed=done, total=total or None)
        if not sys.stderr.isatty() and time.monotonic() - self.printed > 10:
            self.printed = time.monotonic()
            rate = done / max(self.printed - self.began, 1e-9)
            left = f" · {duration((total - done) / rate)} left" if total and rate else ""
            size = f"{done / 1e6:.1f}" + (f"/{total / 1e6:.1f}" if total else "")
            print(f"{self.title} · {what} · {size} MB · {rate / 1e6:.1f} MB/s{left}", file=sys.stderr, flush=True)


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} tokens"),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not sys.stderr.isatty(),
    )


def duration(seconds: float) -> str:
    """1h02m, 3m20s or 8s."""
    whole = max(0, round(seconds))
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"
