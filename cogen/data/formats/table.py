"""Tables as text, where each row is a document; and the choice of the text column, also for .parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from cogen.data import document
from cogen.data.document import Item, Note, SourceLocation, bad_data, document_of
from cogen.data.formats.text import numbered_lines
from cogen.errors import DataError

ABOUT = ("id", "title", "source")
DELIMITERS = ",;\t"


def read_csv(file: BinaryIO, place: SourceLocation) -> Iterator[Item]:
    """One document for each row below the header; the delimiter is the most frequent of , ; and tab in the header."""
    return _read_rows(file, place, "")


def read_tsv(file: BinaryIO, place: SourceLocation) -> Iterator[Item]:
    """One document for each row below the header, with tabs between columns."""
    return _read_rows(file, place, "\t")


def text_column(columns: Sequence[str], candidates: Sequence[str], path: str) -> dict[str, str]:
    """The column of each field of a document: `text` by its name, or the only column that can be the text.

    Args:
        candidates: columns that hold text.
    Raises:
        DataError: no column, or several, that could be the text.
    """
    known = {name.strip().lower(): name for name in reversed(columns)}
    others = [name for name in candidates if name.strip().lower() not in ABOUT]
    if "text" in known:
        text = known["text"]
    elif len(others) == 1:
        text = others[0]
    else:
        got = "columns " + ", ".join(map(repr, columns)) if columns else "no columns"
        raise bad_data(path, "a column `text`, or one column of text", got, "Name the column of the documents `text`.")
    return {"text": text, **{field: known[field] for field in ABOUT if field in known and known[field] != text}}


def _read_rows(file: BinaryIO, place: SourceLocation, delimiter: str) -> Iterator[Item]:
    counted = _CountedLines(file, place)
    lines = iter(counted)
    header = next(lines, "")
    if not header.strip():
        return
    delimiter = delimiter or max(DELIMITERS, key=header.count)
    # The csv module limits fields to 128 KiB for the whole process, and documents are longer.
    csv.field_size_limit(document.MAX_DOCUMENT_BYTES)
    rows = csv.reader(_chain(header, lines), delimiter=delimiter)
    try:
        columns = next(rows)
        yield Note(place.path, "", counted.take())
        fields = text_column(columns, columns, place.path)
        at = {field: columns.index(name) for field, name in fields.items()}
        for row in rows:
            if any(row):
                values = {field: row[i] for field, i in at.items() if i < len(row)}
                yield document_of(values, place.line(rows.line_num), place.file_name, counted.take())
    except csv.Error as error:
        fix = "Correct the quotes there, or save it as .jsonl."
        raise bad_data(place.line(rows.line_num), "rows of a table", str(error), fix) from None


class _CountedLines:
    """The lines of a table, and the bytes of those that no row has taken yet; a bad line ends the table.

    It ends since the start of the next row is not known.
    """

    def __init__(self, file: BinaryIO, place: SourceLocation) -> None:
        self._lines, self._num_bytes = numbered_lines(file, place), 0

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            if isinstance(line.text, DataError):
                raise line.text
            self._num_bytes += line.num_bytes
            yield line.text

    def take(self) -> int:
        """Bytes of the lines since the last call."""
        taken, self._num_bytes = self._num_bytes, 0
        return taken


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest
