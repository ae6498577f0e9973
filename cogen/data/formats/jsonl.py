"""JSON lines: each line is an object with `text`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO

from cogen.data.document import MEND_LINE, Item, Note, Skipped, SourceLocation, bad_data, document_of
from cogen.data.formats.text import Line, numbered_lines
from cogen.errors import DataError


def read_jsonl(file: BinaryIO, place: SourceLocation) -> Iterator[Item]:
    """One document for each line; empty lines are ignored."""
    for line in numbered_lines(file, place):
        yield _item(line, place)


def _item(line: Line, place: SourceLocation) -> Item:
    if isinstance(line.text, DataError):
        return Skipped.of(line.text, line.num_bytes)
    if not line.text.strip():
        return Note(place.path, "", line.num_bytes)
    where = place.line(line.number)
    try:
        values = json.loads(line.text)
    except (ValueError, RecursionError) as error:
        return Skipped.of(bad_data(where, "one JSON object a line", str(error), MEND_LINE), line.num_bytes)
    return document_of(values, where, place.file_name, line.num_bytes)
