"""Documents on disk between the passes of `prepare`: read once from whatever format, then gone through often.

Two files, one for reserved documents (held-out and validation ones) and one for training documents, each with
one JSON array a line. A chunk is a range of bytes, so that a worker process finds its documents by two numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from cogen.data.document import Document, Item
from cogen.data.read import Reading
from cogen.data.split import is_below, split_id

CHUNK_BYTES = 2**20

Progress = Callable[[str, int, int], None]
"""Called with what is done, bytes done, and bytes in all (0 where not known)."""


@dataclass(frozen=True)
class Chunk:
    """Whole lines of a file of the spool, from byte `start` to byte `end`."""

    path: Path
    start: int
    end: int

    @property
    def num_bytes(self) -> int:
        """Bytes of its lines on disk."""
        return self.end - self.start

    def lines(self) -> list[bytes]:
        """Its lines, each with its line feed."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.num_bytes).splitlines(keepends=True)

    def read(self) -> list[Document]:
        """Its documents."""
        return [Document(*json.loads(line)) for line in self.lines()]


@dataclass(frozen=True)
class Spool:
    """The documents that were read, and what was skipped.

    Args:
        reserved, train: chunks of either side, in order.
        sha256: of all documents, in the order of reading.
        num_bytes: UTF-8 bytes of their texts.
        reading: what was read, skipped and noted, by file.
    """

    reserved: tuple[Chunk, ...]
    train: tuple[Chunk, ...]
    sha256: str
    num_documents: int
    num_bytes: int
    reading: Reading

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """Reserved documents first."""
        return self.reserved + self.train

    def with_reserved(self, identity: str) -> Spool:
        """The same spool, with the training documents of this id moved to the end of the reserved ones."""
        found, others = _take_out(self.train, identity)
        return replace(self, reserved=(*self.reserved, *found), train=others)

    def with_trained(self, identity: str) -> Spool:
        """The same spool, with the reserved documents of this id moved to the end of the training ones."""
        found, others = _take_out(self.reserved, identity)
        return replace(self, reserved=others, train=(*self.train, *found))


def _take_out(chunks: Sequence[Chunk], identity: str) -> tuple[tuple[Chunk, ...], tuple[Chunk, ...]]:
    """The lines of documents with this id, and all other lines in order."""
    found: list[Chunk] = []
    others: list[Chunk] = []
    for chunk in chunks:
        start = end = chunk.start
        for line in chunk.lines():
            end += len(line)
            if json.loads(line)[0] == identity:
                others.append(Chunk(chunk.path, start, end - len(line)))
                found.append(Chunk(chunk.path, end - len(line), end))
                start = end
        others.append(Chunk(chunk.path, start, end))
    return tuple(found), tuple(c for c in others if c.num_bytes)


class _Side:
    """One file of the spool while it is written."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path, self.file = path, stack.enter_context(path.open("wb"))
        self.edges = [0]
        self.end = 0

    def write(self, line: bytes) -> None:
        self.file.write(line)
        self.end += len(line)
        if self.end - self.edges[-1] >= CHUNK_BYTES:
            self.edges.append(self.end)

    def chunks(self) -> tuple[Chunk, ...]:
        edges = self.edges if self.edges[-1] == self.end else [*self.edges, self.end]
        return tuple(Chunk(self.path, a, b) for a, b in pairwise(edges))


def write_spool(folder: Path, items: Iterator[Item], reserved_frac: float, progress: Progress | None = None) -> Spool:
    """Put all documents on disk; memory holds one at a time.

    Args:
        reserved_frac: documents with a hash below it are reserved; 1 reserves all.
    """
    digest, reading = hashlib.sha256(), Reading()
    num_documents = num_bytes = 0
    with ExitStack() as stack:
        reserved, train = (_Side(folder / name, stack) for name in ("spool-reserved.jsonl", "spool-train.jsonl"))
        for item in items:
            reading.add(item)
            if not isinstance(item, Document):
                continue
            fields = [item.id, item.title, item.text, item.source, *filter(None, [item.split_id])]
            line = json.dumps(fields, ensure_ascii=False).encode() + b"\n"
            digest.update(line)
            (reserved if is_below(split_id(item), reserved_frac) else train).write(line)
            num_documents += 1
            num_bytes += len(item.text.encode()) if not item.text.isascii() else len(item.text)
            if progress is not None and num_documents % 1000 == 0:
                progress("reading", num_bytes, 0)
        sides = reserved.chunks(), train.chunks()
    return Spool(*sides, digest.hexdigest(), num_documents, num_bytes, reading)
