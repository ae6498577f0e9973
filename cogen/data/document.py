"""A document, what was skipped in its place, and how a record with `text` becomes one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogen.errors import DataError

# Of one text file, one line or one record: three million words. Above it a file is a dump of many documents.
MAX_DOCUMENT_BYTES = 64 * 2**20
MEND_LINE = "Mend or remove the line."


@dataclass(frozen=True)
class Document:
    """The unit of splitting, deduplication and privacy."""

    id: str
    title: str
    text: str
    source: str


@dataclass(frozen=True)
class Skipped:
    """A file, or a line of one, that gave no document, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class SourceLocation:
    """A file that is being read.

    Args:
        path: for messages.
        name: the path inside the corpus: id and source of a file that is one document.
        title: the file's name without its suffixes.
    """

    path: str
    name: str
    title: str

    def line(self, number: int) -> str:
        """Where an error of one line is."""
        return f"{self.path}, line {number}"

    @property
    def file_name(self) -> str:
        """Source of a record that names none."""
        return Path(self.name).name

    def whole(self, text: str, title: str = "") -> Document | None:
        """The file as one document; None when there is nothing in it."""
        if not text.strip():
            return None
        if len(text) > MAX_DOCUMENT_BYTES:
            raise too_long(self.path, "characters of text")
        return Document(id=self.name, title=title.strip() or self.title, text=text, source=self.name)


def document_of(values: Any, where: str, file_name: str) -> Document | DataError:
    """A record with `text`, and `id`, `title`, `source` where known; or why it is no document."""
    text = values.get("text") if isinstance(values, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        got = f"keys {sorted(map(str, values))}" if isinstance(values, Mapping) else type(values).__name__
        return bad_data(where, "an object with a non-empty string `text`", got, MEND_LINE)
    given = "" if values.get("id") is None else str(values["id"])
    found = Document(
        id=given or text_id(text),
        title=str(values.get("title") or ""),
        text=text,
        source=str(values.get("source") or file_name),
    )
    try:
        size = len(text.encode())
        "".join((found.id, found.title, found.source)).encode()
    except UnicodeEncodeError:
        return bad_data(where, "whole characters", "half a surrogate pair", MEND_LINE)
    return found if size <= MAX_DOCUMENT_BYTES else too_long(where)


def text_id(text: str) -> str:
    """The id of a record that has none: half a surrogate pair is left for `document_of` to refuse."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def bad_data(where: Path | str, expected: str, got: str, fix: str) -> DataError:
    """Data that cannot be read."""
    return DataError("cannot read data", expected=expected, got=got, where=str(where), fix=fix)


def too_long(where: str, what: str = "bytes") -> DataError:
    """A file, line or record above MAX_DOCUMENT_BYTES."""
    expected = f"at most {MAX_DOCUMENT_BYTES} {what} in one document"
    return bad_data(where, expected, "more", "Cut it into documents.")
