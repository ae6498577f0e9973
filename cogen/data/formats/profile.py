"""What the cells of a table's columns look like, to tell a row inside a quoted cell from a text of several lines.

`"` that is never closed takes the rows below it into its cell, up to the next quote that happens to stand before a
delimiter or a line end. The lines of such a cell look like rows: as many cells, and ids where ids are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cogen.data.formats.columns import is_number
from cogen.data.formats.records import Record, Splitter, without_end

MAX_ROWS, MAX_SHAPES = 2000, 50
_LETTERS, _DIGITS, _INTEGER = re.compile(r"[^\W\d_]+"), re.compile(r"\d+"), re.compile(r"[+-]?\d{1,18}")


def shape_of(cell: str) -> str:
    """`9` for a number, `a-9` for a code such as T-17, `word`, `Word`, `Phrase`, ..., or nothing."""
    cell = cell.strip()
    if not cell or is_number(cell):
        return "9" if cell else ""
    is_code = any(map(str.isdigit, cell)) and (" " not in cell or not _LETTERS.search(cell))
    if is_code and len(cell) <= 60:
        return _DIGITS.sub("9", _LETTERS.sub("a", cell))
    kind = "phrase" if " " in cell else "word"
    return kind.capitalize() if cell[0].isupper() else kind


def is_strong(shape: str) -> bool:
    """Whether a line of prose hardly begins with a cell of this shape."""
    return "9" in shape


class Profile:
    """The shapes of the cells of all columns except the text, in the rows so far.

    Args:
        width: number of columns.
        text: index of the text.
    """

    def __init__(self, width: int, text: int) -> None:
        self.width, self.text = width, text
        self._shapes: dict[int, set[str]] = {i: set() for i in range(width) if i != text}
        self._num_rows, self._previous = 0, dict[int, int]()
        self.has_loose_quotes = False

    def add(self, record: Record, cells: Sequence[str]) -> None:
        """Learn from a row that fits the header."""
        self.has_loose_quotes |= record.has_loose_quote
        self._previous = {i: int(c) for i in self._shapes if i < 8 and _INTEGER.fullmatch(c := cells[i].strip())}
        self._num_rows += 1
        if self._num_rows <= MAX_ROWS and len(record.lines) == 1:
            for i, shapes in self._shapes.items():
                if len(shapes) < MAX_SHAPES:
                    shapes.add(shape_of(cells[i]))

    def fits(self, index: int, cell: str) -> bool:
        """Whether `cell` looks like the cells of its column; False where no row was seen."""
        return shape_of(cell) in self._shapes[index]

    def is_plain(self, index: int) -> bool:
        """Whether no cell of a column has several words."""
        return not self._shapes[index] & {"phrase", "Phrase"}

    def forget_order(self) -> None:
        """Keep the shapes alone: rows are read again from the first."""
        self._num_rows, self._previous = 0, {}

    def swallowed(self, record: Record, splitter: Splitter, following: str) -> int | None:
        """Number of the first line in a row of several lines that looks like a row of its own, if it is refused for it.

        Args:
            following: the line after the row.
        """
        if len(record.lines) == 1 or self._is_numbered_on(record, splitter, following):
            return None
        shapes = [self._shapes.get(i, set()) for i in range(self.width)]
        if not any(shapes):
            shapes = [{shape_of(cell)} for cell in self._row(record.cells) or []] or shapes
        # The first line of a row ends in its text if that is last; the last line begins with its text if that is first.
        lines = record.lines[1:] if self.text == self.width - 1 else record.lines[:-1]
        inside = [line for line in lines if self._is_row(splitter, line.text, shapes)]
        # A quote at the start of a cell opens one, even if a line end or a delimiter happens to follow.
        last = without_end(record.lines[-1].text)
        row = self._row([last[start:end].strip() for start, end in splitter.spans(last)])
        if self.text > 0 and row and record.lines[-1] in inside and row[self.text].startswith(splitter.dialect.quote):
            return record.lines[-1].number
        others = [shapes[i] - {""} for i in self._shapes if i < len(shapes)]
        if any(kinds and all(map(is_strong, kinds)) for kinds in others):
            return inside[0].number if inside else None
        is_all = len(inside) == len(lines)
        if is_all and (self.has_loose_quotes or (self.width > 1 and len(inside) > 1)):
            return inside[0].number
        return None

    def _is_row(self, splitter: Splitter, text: str, shapes: Sequence[set[str]]) -> bool:
        row = self._row([text[start:end] for start, end in splitter.spans(without_end(text))])
        return row is not None and all(shape_of(row[i]) in shapes[i] for i in self._shapes)

    def _row(self, cells: list[str]) -> list[str] | None:
        """The cells by column, if they are as many as the columns, or more where the text is at an end."""
        more = len(cells) - self.width
        if more < 0 or (more and 0 < self.text < self.width - 1):
            return None
        if more and self.text == 0:
            return cells[more:]
        return cells[: self.width]

    def _is_numbered_on(self, record: Record, splitter: Splitter, following: str) -> bool:
        """Whether rows are numbered, and the numbers before and after this row leave no room for a row in it."""
        after = self._row(splitter.cells(following)) if following.strip() else None
        own = self._row(record.cells)
        if after is None or own is None:
            return False
        for i in self._shapes:
            if i < 8 and _INTEGER.fullmatch(own[i].strip()) and _INTEGER.fullmatch(after[i].strip()):
                number, previous = int(own[i]), self._previous.get(i, int(own[i]) - (i < self.text))
                if number == previous + 1 and int(after[i]) == number + 1:
                    return True
        return False
