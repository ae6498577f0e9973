"""JSON lines: each line is an object with `text`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO

from cogen.data.document import MEND_LINE, Document, SourceLocation, bad_data, document_of
from cogen.data.formats.text import numbered_lines
from cogen.errors import DataError


def read_jsonl(file: BinaryIO, place: SourceLocation) -> Iterator[Document | DataError]:
    """One document for each line; empty lines are ignored."""
    for number, line in numbered_lines(file, place):
        if isinstance(line, DataError):
            yield line
        elif line.strip():
            yield _document(line, place.line(number), place.file_name)


def _document(line: str, where: str, file_name: str) -> Document | DataError:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return bad_data(where, "one JSON object a line", str(error), MEND_LINE)
    return document_of(values, where, file_name)
