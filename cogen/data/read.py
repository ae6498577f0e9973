"""Reading documents, one at a time, from a file, a folder or a dataset on the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cogen.data.document import Document, Skipped, bad_data, text_id
from cogen.data.formats import SUFFIXES, read_file
from cogen.data.walk import Found, corpus_root, walk
from cogen.errors import DataError


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order, and the files and lines that were skipped with the reason."""

    documents: tuple[Document, ...]
    skipped: tuple[tuple[str, str], ...] = ()

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


def read_corpus(path: str | Path, *, strict: bool = False) -> Corpus:
    """Read all documents of a file, of a folder (recursively, by sorted name), or of `hf://datasets/OWNER/NAME`.

    A .txt, .md, .html, .pdf or .docx file is one document; its id is its path inside the folder. A line of a .jsonl
    file and a row of a .csv, .tsv or .parquet file is one document with `text`, and optionally `id`, `title` and
    `source`; without an id, a hash of the text is the id. All of them may be compressed as .gz or .zst.

    Args:
        strict: raise an error for a file, line or row that cannot be read, instead of skipping it with its reason.
    Raises:
        DataError: no such path, or no documents.

    >>> corpus = read_corpus("seeds/clinical.jsonl")  # doctest: +SKIP
    >>> len(corpus)                                   # doctest: +SKIP
    32
    """
    documents: list[Document] = []
    skipped: list[tuple[str, str]] = []
    for item in iter_corpus(path, strict):
        if isinstance(item, Document):
            documents.append(item)
        else:
            skipped.append((item.file, item.reason))
    if not documents:
        raise no_documents(path, [Skipped(*pair) for pair in skipped[:1]], len(skipped))
    return Corpus(tuple(documents), tuple(skipped))


def iter_corpus(path: str | Path, strict: bool = False) -> Iterator[Document | Skipped]:
    """Yield the documents of `path` in a fixed order, and between them the skipped files and lines with the reason.

    The same text twice without an id gives two documents with one id, which deduplication counts.

    Args:
        strict: raise instead of skipping what cannot be read; empty files and other kinds of files are still skipped.
    Raises:
        DataError: no such path; with `strict`, a part that cannot be read, or two documents with one id.
    """
    seen: set[bytes] = set()
    for found in walk(corpus_root(path)):
        for item in _items(found):
            document = item if not isinstance(item, Document) else _single(item, seen, found)
            if isinstance(document, DataError):
                if strict:
                    raise document
                yield Skipped(document.where or _path(found), document.reason)
            else:
                yield document


def no_documents(path: str | Path, skipped: Sequence[Skipped], num_skipped: int) -> DataError:
    """The error for a path without documents; `skipped` holds at least the first skipped file, if there is one."""
    got = "none"
    if skipped:
        first = f"{skipped[0].file}: {skipped[0].reason}"
        got = f"{num_skipped} files or lines that were skipped, the first {first}"
    return bad_data(path, f"documents in {', '.join(SUFFIXES)}", got, "Put text files there or name another path.")


def _items(found: Found | Skipped | DataError) -> Iterator[Document | Skipped | DataError]:
    """The documents of a file; an error that ends the file early is the last item."""
    if not isinstance(found, Found):
        yield found
        return
    empty = True
    try:
        for item in read_file(found.path, found.name):
            empty = False
            yield item
    except DataError as error:
        empty = False
        yield error
    if empty:
        yield Skipped(str(found.path), "it is empty")


def _single(document: Document, seen: set[bytes], found: Found | Skipped | DataError) -> Document | DataError:
    """`document`, or an error if an earlier one has its id."""
    key = hashlib.sha256(document.id.encode()).digest()[:8]
    if key in seen and document.id != text_id(document.text):
        return bad_data(_path(found), "one document an id", f"two with id {document.id!r}", "Rename or remove one.")
    seen.add(key)
    return document


def _path(found: Found | Skipped | DataError) -> str:
    return str(found.path) if isinstance(found, Found) else ""
