"""Lines of tables and JSON lines, which may also end in a lone carriage return; and a look at the lines to come."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from cogen.data.document import SourceLocation
from cogen.data.formats.text import numbered_lines
from cogen.errors import DataError


@dataclass(frozen=True)
class TextLine:
    """One line of a file.

    Args:
        number: from 1.
        text: with its line end.
        num_bytes: in the file.
        error: why the line has no text: it is too long or not UTF-8.
    """

    number: int
    text: str
    num_bytes: int
    error: DataError | None = None


def text_lines(file: BinaryIO, place: SourceLocation) -> Iterator[TextLine]:
    """Lines, split at \\n, \\r\\n and a lone \\r, but not at Unicode's other line ends, which may stand in a text."""
    number = 0
    for line in numbered_lines(file, place):
        if isinstance(line.text, DataError):
            number += 1
            yield TextLine(number, "", line.num_bytes, line.text)
            continue
        parts = _parts(line.text)
        for part, size in zip(parts, _sizes(parts, line.num_bytes), strict=True):
            number += 1
            yield TextLine(number, part, size)


def _parts(text: str) -> list[str]:
    if "\r" not in text[:-2] and not text.endswith("\r\r\n"):
        return [text]
    is_pair = text.endswith("\r\n")
    parts = [part + "\r" for part in text.removesuffix("\r\n").split("\r")]
    parts[-1] = parts[-1][:-1] + ("\r\n" if is_pair else "")
    return [part for part in parts if part]


def _sizes(parts: list[str], num_bytes: int) -> list[int]:
    """Bytes of the parts of a line: of UTF-8, or of UTF-16 if the line has no room for that; a mark goes to the first."""
    if len(parts) == 1:
        return [num_bytes]
    sizes = [len(part.encode()) for part in parts]
    if num_bytes - sum(sizes) not in (0, 3):
        sizes = [len(part.encode("utf-16-le")) for part in parts]
    return [num_bytes - sum(sizes[1:]), *sizes[1:]]


class LineQueue:
    """Lines in order, of which some can be seen ahead."""

    def __init__(self, lines: Iterator[TextLine]) -> None:
        self._lines, self._ahead = lines, deque[TextLine]()
        self.is_all_ahead = False

    def ahead(self, num_lines: int, num_chars: int) -> list[TextLine]:
        """Up to `num_lines` lines, which stay in the queue, up to the first error or until there are `num_chars`.

        After it, `is_all_ahead` says whether these are all.
        """
        num_left = num_chars - sum(len(line.text) for line in self._ahead)
        while len(self._ahead) < num_lines and num_left > 0 and not (self._ahead and self._ahead[-1].error):
            line = next(self._lines, None)
            if line is None:
                self.is_all_ahead = True
                break
            self._ahead.append(line)
            num_left -= len(line.text)
        return [line for line in self._ahead if line.error is None]

    def peek(self) -> TextLine | None:
        """The next line, which stays in the queue; None at the end."""
        if not self._ahead:
            line = next(self._lines, None)
            if line is None:
                return None
            self._ahead.append(line)
        return self._ahead[0]

    def take(self) -> TextLine | None:
        """The next line; None at the end."""
        line = self.peek()
        if line is not None:
            self._ahead.popleft()
        return line
