"""Rows of a table as text: where a row ends, and its cells, under one dialect.

A quoted cell ends with a quote before a delimiter or the end of the line. On one line, anything else is no quoted cell:
its quotes are characters. A quoted cell that goes on over further lines and ends in another way is refused, since it
would swallow rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from cogen.data import document
from cogen.data.document import SourceLocation, bad_data
from cogen.data.formats.lines import TextLine
from cogen.errors import DataError

MEND_QUOTE = "Close the quote, double it if it is a character of the text, or save the table as .jsonl."
SPACES = {" ": " +", "  ": " {2,}"}


@dataclass(frozen=True)
class Dialect:
    """How a table is written.

    Args:
        delimiter: one character; one or two spaces stand for that many or more; empty for a table of one column.
        quote: around cells that hold a delimiter, a line end or a quote; empty where quotes are plain characters.
        is_escaped: quotes within cells have a backslash before them. Otherwise they are doubled.
        is_padded: spaces around cells are not part of them.
    """

    delimiter: str
    quote: str = '"'
    is_escaped: bool = False
    is_padded: bool = False


@dataclass(frozen=True)
class Record:
    """One row.

    Args:
        cells: without their quotes.
        spans: (start, end) of each cell in `text`, with its quotes.
        quoted: indices of the quoted cells.
        has_loose_quote: a quote in a cell that is not quoted.
    """

    lines: list[TextLine]
    text: str
    cells: list[str]
    spans: list[tuple[int, int]] = field(default_factory=list)
    quoted: frozenset[int] = frozenset()
    has_loose_quote: bool = False

    @property
    def num_bytes(self) -> int:
        """Bytes of the row in its file."""
        return sum(line.num_bytes for line in self.lines)

    def source(self, start: int, end: int) -> str:
        """The cells `start` to `end` as they are written, with the delimiters between them."""
        return self.text[self.spans[start][0] : self.spans[end - 1][1]]


def without_end(text: str) -> str:
    """A line without its line end."""
    return text[:-2] if text.endswith("\r\n") else text[:-1] if text.endswith(("\n", "\r")) else text


class Splitter:
    """Cuts lines into rows and cells."""

    def __init__(self, dialect: Dialect, place: SourceLocation) -> None:
        self.dialect, self._place = dialect, place
        self._delimiter = re.compile(SPACES.get(dialect.delimiter, re.escape(dialect.delimiter)) or "(?!)")
        self._spaces = re.compile("" if dialect.delimiter in SPACES else " *")
        quote, delimiter = re.escape(dialect.quote or "\0"), re.escape(dialect.delimiter or "\0")
        plain, inner = (rf"[^{quote}\\]*", r"\\.") if dialect.is_escaped else (f"[^{quote}]*", quote * 2)
        after = "" if dialect.is_escaped else f"(?!{quote})"
        self._closing = re.compile(f"{plain}(?:{inner}{plain})*{quote}{after}", re.DOTALL)
        self._escaped_cell = re.compile(rf"[^{delimiter}\\]*(?:\\(?:.|$)[^{delimiter}\\]*)*", re.DOTALL)
        self._escaped = re.compile(rf"\\([{quote}{delimiter}\\])")

    def record(self, first: TextLine, more: Callable[[], TextLine | None]) -> Record:
        """The row that begins with the line `first`; `more` gives the next line.

        Raises:
            DataError: a quoted cell does not end, or not as a cell does.
        """
        quote = self.dialect.quote
        if quote and (quote in first.text or self.dialect.is_escaped):
            return _Scan(self, first, more).record()
        text = without_end(first.text)
        spans = self.spans(text)
        return Record([first], text, [self.plain(text[start:end]) for start, end in spans], spans)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """(start, end) of each cell of one line, if quotes are plain characters."""
        found = [match.span() for match in self._delimiter.finditer(text)]
        starts, ends = [0, *(end for _, end in found)], [*(start for start, _ in found), len(text)]
        return list(zip(starts, ends, strict=True))

    def cells(self, text: str) -> list[str]:
        """The cells of one line; a quoted cell that does not end in it makes it one of plain characters."""
        line = TextLine(1, text, len(text))
        try:
            return self.record(line, lambda: None).cells
        except DataError:
            return [self.plain(cell) for cell in self._delimiter.split(without_end(text))]

    def plain(self, cell: str) -> str:
        """A cell that is not quoted."""
        return cell.strip(" ") if self.dialect.is_padded else cell

    def unescaped(self, cell: str) -> str:
        """A cell without its escapes."""
        return self._escaped.sub(r"\1", cell) if self.dialect.is_escaped else cell

    def content(self, cell: str) -> str:
        """What stands between the quotes of a cell, without doubled quotes or escapes."""
        quote = self.dialect.quote
        return self.unescaped(cell) if self.dialect.is_escaped else cell.replace(quote * 2, quote)

    def end_of_plain(self, text: str, start: int) -> int:
        """Where the cell ends that begins at `start` and is not quoted."""
        if self.dialect.is_escaped and self.dialect.delimiter not in SPACES:
            match = self._escaped_cell.match(text, start)
            return match.end() if match else start
        found = self._delimiter.search(text, start)
        return found.start() if found else len(text)

    def end_of_delimiter(self, text: str, start: int) -> int | None:
        """Where the delimiter at `start` ends; None if there is none."""
        found = self._delimiter.match(text, start)
        return found.end() if found else None

    def after_spaces(self, text: str, start: int) -> int:
        """The position of the first character from `start` on that is no space."""
        found = self._spaces.match(text, start)
        return found.end() if found else start

    def after_quote(self, text: str, start: int) -> int | None:
        """The position after the quote that closes the cell whose content begins at `start`; None if it stays open."""
        found = self._closing.match(text, start)
        return found.end() if found else None

    def where(self, line: TextLine) -> str:
        """The place of an error."""
        return self._place.line(line.number)


class _Scan:
    """The cells of one row, from the left to the right."""

    def __init__(self, splitter: Splitter, first: TextLine, more: Callable[[], TextLine | None]) -> None:
        self._splitter, self._more, self._quote = splitter, more, splitter.dialect.quote
        self._lines, self._text = [first], without_end(first.text)
        self._cells: list[str] = []
        self._spans: list[tuple[int, int]] = []
        self._quoted: set[int] = set()
        self._is_loose = False

    def record(self) -> Record:
        start: int | None = 0
        while start is not None:
            end = self._quoted_cell(start)
            if end is None:
                end = self._splitter.end_of_plain(self._text, start)
                cell = self._text[start:end]
                bare = cell.replace("\\" + self._quote, "") if self._splitter.dialect.is_escaped else cell
                self._is_loose |= self._quote in bare
                self._cells.append(self._splitter.plain(self._splitter.unescaped(cell)))
            self._spans.append((start, end))
            start = self._splitter.end_of_delimiter(self._text, end)
        return Record(self._lines, self._text, self._cells, self._spans, frozenset(self._quoted), self._is_loose)

    def _quoted_cell(self, start: int) -> int | None:
        """Take the quoted cell at `start`, and give the position after it; None if there is none."""
        first = self._splitter.after_spaces(self._text, start)
        if not self._text.startswith(self._quote, first):
            return None
        begun = self._lines[-1]
        close = self._splitter.after_quote(self._text, first + 1)
        if close is None:
            close = self._closed_later()
        end = self._splitter.after_spaces(self._text, close)
        if end < len(self._text) and self._splitter.end_of_delimiter(self._text, end) is None:
            if self._lines[-1] is not begun:
                raise self._open_quote(f"a quote within it, in line {self._lines[-1].number}", begun)
            return None
        self._quoted.add(len(self._cells))
        self._cells.append(self._splitter.content(self._text[first + 1 : close - 1]))
        return end

    def _closed_later(self) -> int:
        """Take lines up to the one with the closing quote, and give the position after that."""
        begun = self._lines[-1]
        parts = [self._text + begun.text[len(without_end(begun.text)) :]]
        size = len(parts[0])
        while (line := self._more()) is not None:
            if line.error is not None:
                raise line.error
            self._lines.append(line)
            close = self._splitter.after_quote(line.text, 0)
            if size + len(line.text) > document.MAX_DOCUMENT_BYTES:
                raise self._open_quote(f"more than {document.MAX_DOCUMENT_BYTES} characters", begun)
            if close is not None:
                self._text = without_end("".join([*parts, line.text]))
                return size + close
            parts.append(line.text)
            size += len(line.text)
        raise self._open_quote("the end of the file", begun)

    def _open_quote(self, got: str, begun: TextLine) -> DataError:
        return open_quote(self._splitter.where(begun), got)


def open_quote(where: str, got: str) -> DataError:
    """The error that ends a table, at a quoted cell that would swallow rows."""
    return bad_data(where, "the end of the quoted cell that begins here", got, MEND_QUOTE)
