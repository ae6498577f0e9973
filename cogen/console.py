"""What a terminal shows: tables, progress bars, durations, JSON, and text from elsewhere made safe to print.

Results go to stdout and progress to stderr. Where stderr is no terminal, a bar is a line every ten seconds.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import select
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cogen.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import TaskID

SECONDS_BETWEEN_LINES = 10.0
MAX_CHARACTERS = 1000
# ECMA-48: CSI sequences, OSC strings with either end, and the two-character escapes.
ANSI = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)|\x1b[ -/]*[0-~]"
)


def open_streams() -> None:
    """Make stdout and stderr take any text, and stdin give any: what their encoding lacks is written as an escape, such as \\u017b.

    Otherwise a name that a terminal cannot show would end a command whose work is done. A stream that is closed from
    the start becomes one that drops what it gets.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the whole process
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # see typed_text


def leave_ascii() -> None:
    """Start this process again in Python's UTF-8 mode where file names and arguments are taken for ASCII.

    That is so in the C locale with PYTHONUTF8=0. No name with another letter could be opened or kept as text there.
    """
    if codecs.lookup(sys.getfilesystemencoding()).name == "ascii":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})


def typed_text(text: str, where: str) -> str:
    """Text from the command line or stdin, where bytes that had no meaning came as surrogates: read as UTF-8.

    Raises:
        ConfigError: it is not UTF-8 either.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        got, fix = ascii(text[:MAX_CHARACTERS]), "Write it in UTF-8."
        raise ConfigError("cannot read text", expected="text in UTF-8", got=got, where=where, fix=fix) from None


def is_reader_gone() -> bool:
    """Whether the pipe that stdout writes to has been closed at its other end, as by `head`."""
    try:
        poll = select.poll()
        poll.register(sys.__stdout__.fileno() if sys.__stdout__ is not None else 1, 0)
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # no poll on Windows; a stdout that is no file
        return False


def safe(text: object, max_characters: int = MAX_CHARACTERS) -> str:
    """Text from another machine, a file or a name, as one line that cannot control the terminal.

    ANSI escapes and characters that cannot be printed are removed, among them those that turn the direction
    of writing round; line ends and runs of spaces become one space; what is longer than `max_characters` is cut.

    >>> safe("grid\\x1b[2J\\nline two")
    'grid line two'
    """
    line = " ".join(ANSI.sub("", str(text)).split())
    line = "".join(c for c in line if c.isprintable())
    return line if len(line) <= max_characters else line[: max_characters - 3] + "..."


def safe_reply(text: str) -> str:
    """A model's text for stdout: unchanged for a pipe or a file; at a terminal only lines, tabs and printable text."""
    if not sys.stdout.isatty():
        return text
    return "".join(c for c in text if c in "\n\t" or c.isprintable())


def print_json(values: Any) -> None:
    """One JSON object on stdout."""
    print(json.dumps(values, indent=None, sort_keys=True))


def duration(seconds: float) -> str:
    """1h02m, 3m20s or 8s."""
    whole = max(0, round(seconds))
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def table(rows: Sequence[Sequence[str]], num_left: int = 1, marks: str = "") -> str:
    """Rows of equal length as aligned columns, every cell made `safe`.

    Args:
        num_left: columns that start at the left; the others, numbers, end at the right.
        marks: characters that may follow a number; a number without one gets a space, so that digits align.
    """
    from rich.cells import cell_len  # Chinese, Japanese and Korean characters take two columns

    cells = [[safe(cell) for cell in row] for row in rows]
    if marks:
        cells = [[c if i < num_left or c[-1:] in tuple(marks) else c + " " for i, c in enumerate(row)] for row in cells]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        spaces = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        pairs = enumerate(zip(row, spaces, strict=True))
        lines.append("  ".join(cell + space if i < num_left else space + cell for i, (cell, space) in pairs).rstrip())
    return "\n".join(lines)


class Bars:
    """Any number of live bars on stderr, and lines above them.

    Without a terminal there are no bars, and at most one line every ten seconds for all of them.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.is_live = sys.stderr.isatty()
        self._live = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True),
            disable=not self.is_live,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._printed = time.monotonic()

    def __enter__(self) -> Bars:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, title: str, done: float, total: float | None, note: str) -> None:
        """Bring the bar called `title` to `done` of `total`; None is a total that is not known."""
        title, note = safe(title), safe(note)
        if title not in self._tasks:
            self._tasks[title] = self._live.add_task(title, note="")
        self._live.update(self._tasks[title], total=total, completed=done, note=note)
        if note and not self.is_live and time.monotonic() - self._printed > SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            self.say(f"{title} · {note}")

    def end(self, title: str) -> None:
        """Remove the bar called `title`, if there is one."""
        task = self._tasks.pop(safe(title), None)
        if task is not None:
            self._live.remove_task(task)

    def say(self, text: str) -> None:
        """A line above the bars."""
        self._live.console.print(safe(text), highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True)
class Unit:
    """What a bar counts.

    Args:
        name: after the amounts, such as `tokens`. rate: after the rate, such as `tok/s`.
        size: of one shown unit, such as a million bytes. digits: of the rate, after the decimal point.
        is_slow: show seconds a unit instead of units a second.
        has_summary: print a last line when the work is done.
    """

    name: str
    rate: str
    size: float = 1.0
    digits: int = 0
    is_slow: bool = False
    has_summary: bool = False

    def amounts(self, done: float, total: float | None) -> str:
        digits = 0 if self.size == 1 else 1
        shown = [f"{n / self.size:.{digits}f}" for n in (done, *((total,) if total else ()))]
        return f"{'/'.join(shown)} {self.name}"

    def pace(self, done: float, seconds: float) -> str:
        if self.is_slow:
            return f"{seconds / max(done, 1):.1f} {self.rate}"
        return f"{done / max(seconds, 1e-9) / self.size:.{self.digits}f} {self.rate}"


TOKENS = Unit("tokens", "tok/s", has_summary=True)
BYTES = Unit("MB", "MB/s", size=1e6, digits=1)
TRIALS = Unit("trials", "s a trial", is_slow=True, has_summary=True)
MODULES = Unit("modules", "modules/s", digits=1)


class Bar:
    """One bar in a unit, with its rate and the time left.

    Args:
        total: of the unit; None where it is not known.
    """

    def __init__(self, title: str, unit: Unit, total: float | None = None) -> None:
        self.title, self.unit, self.total = title, unit, total
        self.done, self.part, self.began = 0.0, "", time.monotonic()
        self._bars = Bars()

    def __enter__(self) -> Bar:
        self._bars.__enter__()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._bars.__exit__()
        if kind is None and self.unit.has_summary:
            seconds = time.monotonic() - self.began
            pace = self.unit.pace(self.done, seconds)
            self._bars.say(f"{self.title} · {self.unit.amounts(self.done, None)} · {pace} · {duration(seconds)}")

    def update(self, done: float, note: str = "") -> None:
        """`done` of the total, and a word on how it goes."""
        self.done = done
        seconds = time.monotonic() - self.began
        parts = [self.unit.amounts(done, self.total), self.unit.pace(done, seconds)]
        if self.total and done:
            parts.append(f"{duration(seconds / done * (self.total - done))} left")
        name = f"{self.title} · {self.part}" if self.part else self.title
        self._bars.show(name, done, self.total, " · ".join([*parts, *([note] if note else [])]))

    def advance(self, amount: float = 1, note: str = "") -> None:
        """`amount` more is done."""
        self.update(self.done + amount, note)

    def update_part(self, part: str, done: int, total: int) -> None:
        """`done` of `total` in one of several passes over the work, each with its own clock; a total of 0 is unknown."""
        if part != self.part:
            self.part, self.began = part, time.monotonic()
        self.total = total or None
        self.update(done)
