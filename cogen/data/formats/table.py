"""Tables as text, where each row is a document.

How the table is written is found from its first lines, and said in a note. A row that does not fit the header is read
only where its text is certain; otherwise it is skipped with a reason. No cell of the text is ever cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO

from cogen.data.document import Document, Item, Note, Skipped, SourceLocation, bad_data, document_of
from cogen.data.formats.columns import ABOUT, choose_columns, contents, cropped, is_number, listed, plain_name
from cogen.data.formats.dialect import Layout, Sniffer, delimiter_name
from cogen.data.formats.lines import LineQueue, text_lines
from cogen.data.formats.profile import Profile, is_strong, shape_of
from cogen.data.formats.records import Record, Splitter, open_quote
from cogen.errors import DataError

SAMPLE_LINES, SAMPLE_CHARS = 200, 2**18
MEND_ROW = "Quote the cells that hold a delimiter, or save the table as .jsonl."
# Names that a first line has if it is a header, and that a row hardly consists of.
_HEADER_NAMES = {"text", *ABOUT, "body", "content", "contents", "document", "message", "description", "abstract"}


def read_csv(file: BinaryIO, place: SourceLocation) -> Iterator[Item]:
    """One document for each row below the header, whatever is between cells."""
    return _read(file, place, is_tsv=False)


def read_tsv(file: BinaryIO, place: SourceLocation) -> Iterator[Item]:
    """One document for each row below the header. Between tabs a quote is a character as any other.

    Source: IANA text/tab-separated-values.
    """
    return _read(file, place, is_tsv=True)


def _read(file: BinaryIO, place: SourceLocation, is_tsv: bool) -> Iterator[Item]:
    lines = LineQueue(text_lines(file, place))
    while (line := lines.peek()) is not None and line.error is None and not line.text.strip():
        yield Note(place.path, "", line.num_bytes)
        lines.take()
    sample = lines.ahead(SAMPLE_LINES, SAMPLE_CHARS)
    if line is None:
        return
    if not sample and line.error is not None:
        raise line.error
    if any("\0" in found.text for found in sample[:2]):
        raise bad_data(place.path, "text", "zero bytes", "If it is UTF-16, convert it to UTF-8; otherwise remove it.")
    layout = Sniffer(sample, place, is_tsv, lines.is_all_ahead).layout()
    for found in sample[: layout.header]:
        lines.take()
        text = f"not read: the line {cropped(found.text)} above the header" if found.text.strip() else ""
        yield Note(place.path, text, found.num_bytes)
    yield from _Table(lines, layout, place).items()


class _Table:
    """The rows of a table from its header on."""

    def __init__(self, lines: LineQueue, layout: Layout, place: SourceLocation) -> None:
        self._lines, self._place, self._dialect = lines, place, layout.dialect
        self._splitter = Splitter(layout.dialect, place)
        first = lines.take()
        assert first is not None
        self._header = self._splitter.record(first, lines.take)
        self._names = list(self._header.cells)
        self._num_unnamed = self._drop_unnamed(layout.sample)
        self._columns = self._chosen(layout)
        self._text, self._width = self._columns["text"], len(self._names)
        self._is_last = self._text == self._width - 1
        self._profile = Profile(self._width, self._text)
        for record in layout.sample:
            if len(record.cells) == self._width and len(record.lines) == 1:
                self._profile.add(record, record.cells)
        self._profile.forget_order()
        self._unread = self._unread_columns(layout.sample)
        self._chars, self._unread_chars = 0, dict.fromkeys(self._unread, 0)
        self._num_documents = self._num_joined = self._num_short = self._num_in_quotes = self._num_unnamed_filled = 0

    def items(self) -> Iterator[Item]:
        """The header's note, the rows, and a note on what was not read."""
        yield Note(self._place.path, self._description(), self._header.num_bytes)
        try:
            while (line := self._lines.take()) is not None:
                if line.error is not None and self._dialect.quote:
                    raise line.error  # it may have opened a quoted cell, so the start of the next row is not known
                if line.error is not None:
                    yield Skipped.of(line.error, line.num_bytes)
                else:
                    yield self._item(self._splitter.record(line, self._lines.take))
        except DataError:
            yield from self._notes()
            raise
        yield from self._notes()

    def _drop_unnamed(self, sample: Sequence[Record]) -> int:
        """Drop columns without a name at the end, as a delimiter at the end of all rows makes them; gives how many."""
        num_unnamed = 0
        while len(self._names) > 1 and not self._names[-1].strip():
            self._names.pop()
            num_unnamed += 1
        is_ended = [len(r.cells) > len(self._names) and not r.cells[-1] for r in sample]
        return num_unnamed or int(len(sample) > 1 and all(is_ended))

    def _chosen(self, layout: Layout) -> dict[str, int]:
        where = self._place.line(self._header.lines[0].number)
        rows = [record.cells for record in layout.sample if len(record.cells) >= len(self._names)]
        kinds = [contents(row[i] for row in rows) for i in range(len(self._names))]
        is_row = not layout.is_known and any(map(is_number, self._names))
        columns: dict[str, int] = {}
        if not is_row:
            candidates = [i for i, kind in enumerate(kinds) if kind in ("text", "words")] or range(len(kinds))
            columns = choose_columns(self._names, candidates, self._place.path)
            name = self._names[columns["text"]]
            cells = [row[columns["text"]] for row in rows]
            is_row = not (
                layout.is_known
                or plain_name(name) in _HEADER_NAMES
                or "numbers" in kinds
                or sum(map(len, cells)) > 3 * len(name) * max(1, len(cells))
            )
        if is_row or len(self._names[columns["text"]]) > 100:
            got = f"what may be a row, {cropped(self._header.text)}"
            fix = "Write the names of the columns above the rows, such as id,text."
            raise bad_data(where, "a first line that names the columns, with `text`", got, fix)
        return columns

    def _unread_columns(self, sample: Sequence[Record]) -> dict[int, str]:
        """What the columns hold that no field of a document takes."""
        rows = [record.cells for record in sample if len(record.cells) == self._width]
        unread = sorted(set(range(self._width)) - set(self._columns.values()))
        return {i: contents(row[i] for row in rows) for i in unread}

    def _description(self) -> str:
        dialect, line = self._dialect, self._header.lines[0].number
        columns = ", ".join(f"{field} = {self._names[i]!r}" for field, i in self._columns.items())
        parts = [f"delimiter {delimiter_name(dialect.delimiter)}" if dialect.delimiter else "one column"]
        parts += [f"header in line {line}"] * (line > 1)
        parts += ["cells in single quotes"] * (dialect.quote == "'")
        parts += ["a backslash before quotes in cells"] * dialect.is_escaped
        return "; ".join([*parts, f"columns: {columns}"])

    def _notes(self) -> Iterator[Note]:
        path = self._place.path
        total = self._chars + sum(self._unread_chars.values())
        shares = {i: f", {self._unread_chars[i] / total:.0%} of the characters" for i in self._unread if total}
        unread = [
            f"{self._names[i]!r} ({kind}{shares.get(i, '') if kind == 'text' else ''})"
            for i, kind in sorted(self._unread.items(), key=lambda item: -self._unread_chars[item[0]])
        ]
        if unread:
            yield Note(path, "columns not read: " + listed(unread))
        if self._num_unnamed_filled:
            yield Note(path, f"{self._num_unnamed_filled} rows with cells below no name, which are not read")
        if self._num_joined:
            what = f"rows with {delimiter_name(self._dialect.delimiter)} in a text without quotes, read as they are"
            yield Note(path, f"{self._num_joined} {what}")
        if self._num_short:
            yield Note(path, f"{self._num_short} rows without the last cells, which are not the text")
        if self._num_in_quotes:
            yield Note(path, f"{self._num_in_quotes} texts in quotes, which are kept, as this format has no quoting")
        if not self._num_documents:
            yield Note(path, "no documents below the header")

    def _item(self, record: Record) -> Item:
        num_bytes, where = record.num_bytes, self._place.line(record.lines[0].number)
        if not any(map(str.strip, record.cells)) or record.cells == self._header.cells:
            return Note(self._place.path, "", num_bytes)
        self._require_no_rows_inside(record)
        if "\0" in record.text:
            return Skipped.of(bad_data(where, "text", "zero bytes", "Remove them."), num_bytes)
        self._profile.has_loose_quotes |= record.has_loose_quote
        cells = self._fitted(record)
        if cells is None:
            expected = f"{self._width} cells, as in the header"
            return Skipped.of(bad_data(where, expected, f"{len(record.cells)}", MEND_ROW), num_bytes)
        if not cells[self._text].strip():
            return Skipped.of(bad_data(where, "a text", "an empty cell", "Fill it, or remove the row."), num_bytes)
        for i in self._unread:
            self._unread_chars[i] += len(cells[i]) if i < len(cells) else 0
        self._chars += sum(len(cells[i]) for i in self._columns.values() if i < len(cells))
        self._num_in_quotes += not self._dialect.quote and cells[self._text].startswith('"')
        values = {field: cells[i] for field, i in self._columns.items() if i < len(cells)}
        found = document_of(values, where, self._place.file_name, num_bytes)
        self._num_documents += isinstance(found, Document)
        return found

    def _require_no_rows_inside(self, record: Record) -> None:
        if len(record.lines) == 1:
            return
        if record.has_loose_quote:
            got = f"a quote within a cell, in line {record.lines[-1].number}"
            raise open_quote(self._place.line(record.lines[0].number), got)
        following = self._lines.peek()
        inside = self._profile.swallowed(record, self._splitter, following.text if following else "")
        if inside is not None:
            text = next(line.text for line in record.lines if line.number == inside)
            got = f"what looks like a row in it, line {inside} ({cropped(text)})"
            raise open_quote(self._place.line(record.lines[0].number), got)

    def _fitted(self, record: Record) -> list[str] | None:
        """The cells by column, or fewer if the last ones are missing; None where it is not certain which is the text."""
        cells, end = record.cells, len(record.cells)
        is_text_quoted = self._text in record.quoted
        num_droppable = end if is_text_quoted else self._num_unnamed
        while end > self._width and num_droppable and not cells[end - 1].strip():
            end, num_droppable = end - 1, num_droppable - 1
        if end == self._width:
            self._profile.add(record, cells[:end])
            return cells[:end]
        if len(record.lines) > 1:
            return None
        if end < self._width:
            return self._short(cells)
        if end == self._width + self._num_unnamed and (is_text_quoted or not self._is_last):
            self._num_unnamed_filled += 1
            return cells[: self._width]
        found = self._joined(record, end - self._width, end)
        self._num_joined += found is not None
        return found

    def _short(self, cells: list[str]) -> list[str] | None:
        """`cells`, if the text is among them and is no other column's: those before it are as always, and no prose."""
        if self._text >= len(cells):
            return None
        is_sure = all(self._profile.fits(i, cells[i]) and self._profile.is_plain(i) for i in range(self._text))
        self._num_short += is_sure
        return cells if is_sure else None

    def _joined(self, record: Record, num_more: int, end: int) -> list[str] | None:
        """The cells with those that the delimiters in the text made put together, if the text is at an end."""
        if self._width == 1 or self._text in record.quoted:
            return None
        if self._is_last:
            text = self._splitter.plain(record.source(self._text, end))
            return [*record.cells[: self._text], text]
        if self._text > 0:
            return None
        others = record.cells[num_more + 1 : end]
        is_sure = is_strong(shape_of(others[0])) or self._profile.fits(1, others[0])
        if is_sure and not any(" " in cell and not is_strong(shape_of(cell)) for cell in others):
            return [self._splitter.plain(record.source(0, num_more + 1)), *others]
        return None
