"""One reader for each format, chosen by the file's suffix; `.gz` and `.zst` may follow any of them.

A reader takes an open file and its location, and yields documents. For a bad line or row it yields a DataError in
place of the document and continues; for a bad file it raises one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import BinaryIO

from cogen.data.document import Document, SourceLocation
from cogen.data.formats.compressed import OPENERS, opened
from cogen.data.formats.docx import read_docx
from cogen.data.formats.html import read_html
from cogen.data.formats.jsonl import read_jsonl
from cogen.data.formats.parquet import read_parquet
from cogen.data.formats.pdf import read_pdf
from cogen.data.formats.table import read_csv, read_tsv
from cogen.data.formats.text import read_text
from cogen.errors import DataError

Reader = Callable[[BinaryIO, SourceLocation], Iterator[Document | DataError]]

READERS: Mapping[str, Reader] = {
    ".txt": read_text,
    ".md": read_text,
    ".html": read_html,
    ".htm": read_html,
    ".pdf": read_pdf,
    ".docx": read_docx,
    ".jsonl": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}
SUFFIXES = tuple(READERS)
COMPRESSED_SUFFIXES = tuple(OPENERS)


def split_suffix(name: str) -> tuple[str, str, str]:
    """`notes.jsonl.zst` as `("notes", ".jsonl", ".zst")`; the last is empty for a file that is not compressed."""
    path = PurePath(name)
    if path.suffix.lower() in OPENERS:
        return PurePath(path.stem).stem, PurePath(path.stem).suffix.lower(), path.suffix.lower()
    return path.stem, path.suffix.lower(), ""


def is_readable(name: str) -> bool:
    """Whether there is a reader for files of this name."""
    return split_suffix(name)[1] in READERS


def read_file(path: Path, name: str) -> Iterator[Document | DataError]:
    """Yield the documents of one file in order, and an error in place of each bad one.

    Args:
        name: the file's path inside the corpus.
    Raises:
        DataError: the file cannot be read, or not to its end.
    """
    title, suffix, compression = split_suffix(path.name)
    place = SourceLocation(str(path), name, title)
    with opened(path, compression) as file:
        yield from READERS[suffix](file, place)
