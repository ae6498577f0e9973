"""A document, the record of a skipped file or line, and the conversion of a record with `text`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogen.errors import DataError

# For a text file, line or record. A larger one is a dump of many documents, not a document.
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
    """A file or line that gave no document, and the reason."""

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
        """The place of an error in one line."""
        return f"{self.path}, line {number}"

    @property
    def file_name(self) -> str:
        """The source of a record without one."""
        return Path(self.name).name

    def whole(self, text: str, title: str = "") -> Document | None:
        """The file as one document; None if it is empty."""
        if not text.strip():
            return None
        if len(text) > MAX_DOCUMENT_BYTES:
            raise too_long(self.path, "characters of text")
        return Document(id=self.name, title=title.strip() or self.title, text=text, source=self.name)


def document_of(values: Any, where: str, file_name: str) -> Document | DataError:
    """The document of a record with `text`, and optionally `id`, `title` and `source`; or the error if it is none."""
    text = values.get("text") if isinstance(values, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        got = f"keys {sorted(map(str, values))}" if isinstance(values, Mapping) else type(values).__name__
        return bad_data(where, "an object with a non-empty string `text`", got, MEND_LINE)
    identity = "" if values.get("id") is None else str(values["id"])
    found = Document(
        id=identity or text_id(text),
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
    """The id of a record without one; half a surrogate pair is accepted here, and `document_of` refuses it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def bad_data(where: Path | str, expected: str, got: str, fix: str) -> DataError:
    """The error for data that cannot be read."""
    return DataError("cannot read data", expected=expected, got=got, where=str(where), fix=fix)


def too_long(where: str, what: str = "bytes") -> DataError:
    """The error for a file, line or record above MAX_DOCUMENT_BYTES."""
    expected = f"at most {MAX_DOCUMENT_BYTES} {what} in one document"
    return bad_data(where, expected, "more", "Divide it into documents.")
