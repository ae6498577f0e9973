"""One reader for each format, chosen by the file's suffix; `.gz` and `.zst` may follow any of them.

A reader takes an open file and its location, and yields documents, skipped parts and notes, each with the bytes of
the file that it stands for. After a bad line or row it continues; for a bad file it raises a DataError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import BinaryIO

from cogen.data.document import REST, Document, Item, Note, Skipped, SourceLocation
from cogen.data.formats.compressed import CHUNK_BYTES, OPENERS, num_bytes, opened
from cogen.data.formats.docx import read_docx
from cogen.data.formats.html import read_html
from cogen.data.formats.jsonl import read_jsonl
from cogen.data.formats.parquet import read_parquet
from cogen.data.formats.pdf import read_pdf
from cogen.data.formats.table import read_csv, read_tsv
from cogen.data.formats.text import read_text
from cogen.errors import DataError

Reader = Callable[[BinaryIO, SourceLocation], Iterator[Item]]

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


def read_file(path: Path, name: str) -> Iterator[Item]:
    """What is in one file, in order; the bytes of all items add up to those of the file (unpacked, if it is packed).

    A file that cannot be read, or not to its end, is skipped from there on. Bytes that a reader does not account for
    are skipped too, so that nothing is lost without a word.

    Args:
        name: the file's path inside the corpus.
    """
    title, suffix, compression = split_suffix(path.name)
    place = SourceLocation.of(path, name, title)
    size = taken = 0
    is_empty = True
    file: BinaryIO | None = None
    try:
        with opened(path, compression) as file:
            size = num_bytes(file)
            for item in READERS[suffix](file, place):
                size = max(size, num_bytes(file))
                found = sized(item, size - taken)
                taken += bytes_of(found)
                is_empty &= isinstance(found, Note) and not found.text
                yield found
            while compression and file.read(CHUNK_BYTES):
                pass  # a reader may end early, and the size of a packed file is known at its end only
            size = max(size, num_bytes(file))
    except DataError as error:
        size = _size_on_disk(path) if file is None else num_bytes(file) if compression else size
        yield Skipped.of(error, max(0, size - taken), place.path)
        return
    if is_empty:
        yield Skipped(
            place.path, "no text was found in it" if size > taken else "it is empty", size - taken, size > taken
        )
    elif size > taken:
        yield Skipped(place.path, f"no document was made of {size - taken} of its bytes", size - taken)


def _size_on_disk(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def bytes_of(item: Item) -> int:
    """Bytes of its file that an item stands for."""
    return item.num_file_bytes if isinstance(item, Document) else item.num_bytes


def sized(item: Item, rest: int) -> Item:
    """`item` with its bytes in numbers."""
    if bytes_of(item) != REST:
        return item
    return replace(item, num_file_bytes=rest) if isinstance(item, Document) else replace(item, num_bytes=rest)
