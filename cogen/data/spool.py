"""Documents on disk between the passes of `prepare`: read once, whatever their format, then gone through often.

Two files, one a side of the split, each a JSON array a line. Batches are ranges of bytes, so that a worker
needs no more than two numbers to find its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from cogen.data.document import Document, Skipped
from cogen.data.split import is_heldout

BATCH_BYTES = 2**20
# A corpus of bad lines would else be a list of them in memory, and a card that nobody reads.
MOST_LEFT_OUT = 1000

Progress = Callable[[str, int, int], None]
"""Called with what is done, bytes done, and bytes in all (0 where not known)."""


@dataclass(frozen=True)
class SpoolBatch:
    """Whole lines of a file of the spool, from byte `start` to byte `end`."""

    path: Path
    start: int
    end: int

    def read(self) -> list[Document]:
        """Its documents."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            return [Document(*json.loads(line)) for line in file.read(self.end - self.start).splitlines()]


@dataclass(frozen=True)
class Spool:
    """What was read.

    Args:
        heldout, train: batches of either side, in order.
        sha256: of all documents, in the order of reading.
        num_bytes: of their texts in UTF-8.
        skipped: the first MOST_LEFT_OUT of `num_skipped`.
    """

    heldout: tuple[SpoolBatch, ...]
    train: tuple[SpoolBatch, ...]
    sha256: str
    num_documents: int
    num_bytes: int
    skipped: tuple[Skipped, ...]
    num_skipped: int

    @property
    def batches(self) -> tuple[SpoolBatch, ...]:
        """Held-out documents first."""
        return self.heldout + self.train


class _Side:
    """One file of the spool while it is written."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path, self.file = path, stack.enter_context(path.open("wb"))
        self.edges = [0]
        self.end = 0

    def write(self, line: bytes) -> None:
        self.file.write(line)
        self.end += len(line)
        if self.end - self.edges[-1] >= BATCH_BYTES:
            self.edges.append(self.end)

    def batches(self) -> tuple[SpoolBatch, ...]:
        edges = self.edges if self.edges[-1] == self.end else [*self.edges, self.end]
        return tuple(SpoolBatch(self.path, a, b) for a, b in pairwise(edges))


def write_spool(
    folder: Path, items: Iterator[Document | Skipped], heldout_frac: float, progress: Progress | None = None
) -> Spool:
    """Put all documents on disk; memory holds one at a time."""
    digest = hashlib.sha256()
    skipped: list[Skipped] = []
    num_skipped = num_documents = num_bytes = 0
    with ExitStack() as stack:
        heldout, train = (_Side(folder / name, stack) for name in ("spool-heldout.jsonl", "spool-train.jsonl"))
        for item in items:
            if isinstance(item, Skipped):
                num_skipped += 1
                skipped += [item] if num_skipped <= MOST_LEFT_OUT else []
                continue
            fields = [item.id, item.title, item.text, item.source]
            line = json.dumps(fields, ensure_ascii=False).encode() + b"\n"
            digest.update(line)
            (heldout if is_heldout(item.id, heldout_frac) else train).write(line)
            num_documents += 1
            num_bytes += len(item.text.encode()) if not item.text.isascii() else len(item.text)
            if progress is not None and num_documents % 1000 == 0:
                progress("reading", num_bytes, 0)
        sides = heldout.batches(), train.batches()
    return Spool(*sides, digest.hexdigest(), num_documents, num_bytes, tuple(skipped), num_skipped)
