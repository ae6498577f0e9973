"""Reading documents, one at a time, from a file, a folder or a dataset on the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cogen.data.document import Document, Item, Note, Skipped, bad_data, printable, text_id
from cogen.data.formats import SUFFIXES, bytes_of
from cogen.data.formats.isolated import ReaderProcess
from cogen.data.walk import Found, corpus_root, walk
from cogen.errors import DataError

# A corpus of bad lines must fill neither the memory nor the card.
MAX_SKIPPED = 1000


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order, the files and lines that were skipped with the reason, and notes by file.

    Args:
        num_file_bytes: bytes of all files that text may be in, unpacked where they are packed.
        num_lost_bytes: of these, in what was skipped.
    """

    documents: tuple[Document, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    num_file_bytes: int = 0
    num_lost_bytes: int = 0

    def __len__(self) -> int:
        return len(self.documents)

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)

    def sha256(self) -> str:
        """sha256 of ids and texts, in order."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(json.dumps([document.id, document.text]).encode())
        return digest.hexdigest()


@dataclass
class Reading:
    """What was found in a corpus besides documents, and how many bytes of its files became documents.

    Args:
        skipped: the first MAX_SKIPPED of `num_skipped`.
        notes: the first MAX_SKIPPED of them.
        num_file_bytes: bytes of all files that text may be in, unpacked where they are packed.
        num_lost_bytes: of these, in files, lines and pages that were skipped.
    """

    skipped: list[Skipped] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    num_skipped: int = 0
    num_file_bytes: int = 0
    num_lost_bytes: int = 0

    def values(self) -> list[Any]:
        """All that a card says of it, as JSON."""
        skipped = [(one.file, one.reason, one.num_bytes) for one in self.skipped]
        notes = [(note.file, note.text) for note in self.notes]
        return [self.num_skipped, self.num_file_bytes, self.num_lost_bytes, skipped, notes]

    def add(self, item: Item) -> None:
        """Count one item, and keep it unless it is a document."""
        if isinstance(item, Skipped):
            self.num_skipped += 1
            self.skipped += [item] if self.num_skipped <= MAX_SKIPPED else []
            self.num_lost_bytes += item.num_bytes if item.is_loss else 0
        elif isinstance(item, Note) and item.text and len(self.notes) < MAX_SKIPPED:
            self.notes.append(item)
        if not isinstance(item, Skipped) or item.is_loss:
            self.num_file_bytes += bytes_of(item)


def read_corpus(path: str | Path, *, strict: bool = False) -> Corpus:
    """Read all documents of a file, of a folder (recursively, by sorted name), or of `hf://datasets/OWNER/NAME`.

    A .txt, .md, .html, .pdf or .docx file is one document; its id is its path inside the folder. A line of a .jsonl
    file and a row of a .csv, .tsv or .parquet file is one document with `text`, and optionally `id`, `title` and
    `source`; without an id, a hash of the text is the id. Equal ids are made distinct, by the file and by a number.
    All formats may be compressed as .gz or .zst.

    Args:
        strict: raise an error for a file, line or row that cannot be read, instead of skipping it with its reason.
    Raises:
        DataError: no such path, or no documents.

    >>> corpus = read_corpus("seeds/clinical.jsonl")  # doctest: +SKIP
    >>> len(corpus)                                   # doctest: +SKIP
    32
    """
    documents: list[Document] = []
    reading = Reading()
    for item in iter_corpus(path, strict):
        reading.add(item)
        if isinstance(item, Document):
            documents.append(item)
    if not documents:
        raise no_documents(path, reading)
    return Corpus(
        tuple(documents),
        tuple((one.file, one.reason) for one in reading.skipped),
        tuple((note.file, note.text) for note in reading.notes),
        reading.num_file_bytes,
        reading.num_lost_bytes,
    )


def iter_corpus(path: str | Path, strict: bool = False) -> Iterator[Item]:
    """Yield the documents of `path` in a fixed order, and between them what was skipped with the reason, and notes.

    The same text twice without an id gives two documents with one id, which deduplication counts.

    Args:
        strict: raise instead of skipping what cannot be read; empty files and other kinds of files are still skipped.
    Raises:
        DataError: no such path; with `strict`, a part that cannot be read.
    """
    ids = _DistinctIds()
    with ReaderProcess() as process:
        for found in walk(corpus_root(path)):
            ids.next_file(found.name if isinstance(found, Found) else "")
            for item in process.read(found.path, found.name) if isinstance(found, Found) else (found,):
                if strict and isinstance(item, Skipped) and item.error is not None:
                    raise item.error
                yield ids.made_distinct(item) if isinstance(item, Document) else item


def no_documents(path: str | Path, reading: Reading) -> DataError:
    """The error for a path without documents."""
    got = "none"
    if reading.skipped:
        first = reading.skipped[0]
        got = f"{reading.num_skipped} files or lines that were skipped, the first {first.file}: {first.reason}"
    return bad_data(path, f"documents in {', '.join(SUFFIXES)}", got, "Put text files there or name another path.")


class _DistinctIds:
    """Gives a document whose id another one has an id of its own.

    In one file the second document with the id `7` becomes `7 (2)`; one in another file, `7 [b.jsonl]`. By which side
    of the split such a document is on, files have no part: that is decided by `7`, and in one file by `7 (2)`.
    """

    def __init__(self) -> None:
        self._file_of: dict[int, int] = {}  # the last file with this id
        self._repeats: dict[int, int] = {}  # of ids in the present file, from the second document on
        self._file, self._number = "", 0

    def next_file(self, name: str) -> None:
        """Start with the next file."""
        self._file, self._number, self._repeats = printable(name), self._number + 1, {}

    def made_distinct(self, document: Document) -> Document:
        """`document` with an id that no document before has; one whose id is its text's hash stays."""
        if document.id == text_id(document.text):
            return document
        split_id = document.id
        key = _key(document.id)
        if self._file_of.get(key) == self._number:
            self._repeats[key] = self._repeats.get(key, 1) + 1
            split_id = f"{document.id} ({self._repeats[key]})"
        identity = split_id
        while (key := _key(identity)) in self._file_of:
            self._file_of[key] = self._number
            identity = f"{split_id} [{self._file}]" if identity == split_id else f"{identity}'"
        self._file_of[key] = self._number
        return document if identity == document.id else replace(document, id=identity, split_id=split_id)


def _key(identity: str) -> int:
    """64 bits that stand for an id, so that millions of them fit in memory."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big")
