"""What reading a corpus gives: documents, files and lines that were skipped, and notes; and how a record becomes one.

Each of the three says how many bytes of its file it stands for, and those of one file add up to its size: see
`cogen.data.formats.read_file`. So nothing of a file can be lost without a word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogen.errors import DataError

# For a text file, line or record. A larger one is a dump of many documents, not a document.
MAX_DOCUMENT_BYTES = 64 * 2**20
MEND_LINE = "Mend or remove the line."
# The number of bytes of an item that stands for all of its file that no other item stands for.
REST = -1


@dataclass(frozen=True)
class Document:
    """The unit of splitting, deduplication and privacy.

    Args:
        split_id: the id by which the split is made, where `id` was changed to differ from one in another file; else
            empty. So a document stays on its side of the split whichever files are read before its own.
        num_file_bytes: bytes of its file that it was made of, before any decoding.
    """

    id: str
    title: str
    text: str
    source: str
    split_id: str = field(default="", compare=False)
    num_file_bytes: int = field(default=REST, compare=False, repr=False)


@dataclass(frozen=True)
class Skipped:
    """A part of a corpus that gave no document, and the reason.

    Args:
        file: a file, line, row or pages.
        num_bytes: of its file.
        is_loss: whether text may be lost. It is not where a file is empty, or is a picture or a sound.
        error: the error that strict reading raises; None where it raises none.
    """

    file: str
    reason: str
    num_bytes: int = 0
    is_loss: bool = True
    error: DataError | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, error: DataError, num_bytes: int = REST, file: str = "") -> Skipped:
        """The part of a corpus that `error` is about; `file` where it names no place."""
        return cls(error.where or file, error.reason, num_bytes, error=error)


@dataclass(frozen=True)
class Note:
    """What a user should know of a file that was read: how a table was understood, which columns were not read.

    Args:
        text: a phrase; empty for a part that holds no text, such as blank lines and the header of a table.
        num_bytes: bytes of the file that are no document's, such as a table's header.
    """

    file: str
    text: str
    num_bytes: int = 0


Item = Document | Skipped | Note
"""What a reader yields."""


@dataclass(frozen=True)
class SourceLocation:
    """A file that is being read.

    Args:
        path: for messages.
        name: the path inside the corpus: id and source of a file that is one document.
        title: the file's name without its suffixes.
    All three are printable: bytes of a name that are not UTF-8 are escaped.
    """

    path: str
    name: str
    title: str

    @classmethod
    def of(cls, path: Path, name: str, title: str) -> SourceLocation:
        """The location of the file at `path`, with every name made printable."""
        return cls(printable(path), printable(name), printable(title))

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


def printable(name: str | Path) -> str:
    """A file's name with bytes that are not UTF-8, and control characters, escaped as Python does (`\\udce9`)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def document_of(values: Any, where: str, file_name: str, num_bytes: int) -> Document | Skipped:
    """The document of a record with `text`, and optionally `id`, `title` and `source`; skipped if it is none.

    Args:
        num_bytes: bytes of the record in its file.
    """
    found = _document_of(values, where, file_name, num_bytes)
    return found if isinstance(found, Document) else Skipped.of(found, num_bytes)


def _document_of(values: Any, where: str, file_name: str, num_bytes: int) -> Document | DataError:
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
        num_file_bytes=num_bytes,
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
    return DataError("cannot read data", expected=expected, got=got, where=printable(where), fix=fix)


def too_long(where: str, what: str = "bytes") -> DataError:
    """The error for a file, line or record above MAX_DOCUMENT_BYTES."""
    expected = f"at most {MAX_DOCUMENT_BYTES} {what} in one document"
    return bad_data(where, expected, "more", "Divide it into documents.")
