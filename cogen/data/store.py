"""A prepared corpus on disk: token ids mapped into memory, held-out documents, the card.

Each has its own folder, which only its owner can read, since it holds private text: `tokens.u16` (`tokens.i32`
for a vocabulary above 65,536), `ends.i64` with the end of each document, `heldout.jsonl` with the held-out and
then the validation documents, `card.json`, and the hashes of all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, overload

import numpy as np

from cogen.data.card import DataCard
from cogen.data.document import Document, printable
from cogen.data.split import num_leading
from cogen.errors import DataError
from cogen.file_hashes import FileHashes, altered_file
from cogen.files import cannot_write

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS: Mapping[str, np.dtype[Any]] = {"tokens.u16": np.dtype("<u2"), "tokens.i32": np.dtype("<i4")}
STAGING = ".building-"
ABANDONED_SECONDS = 60.0


class TokenStore(Sequence["NDArray[np.int32]"]):
    """Token ids of one document after another, each ending in EOS; read from disk when used.

    Args:
        folder: holds `tokens.*` and `ends.i64`.
    """

    def __init__(self, folder: Path) -> None:
        (path,) = (folder / name for name in KINDS if (folder / name).is_file())
        self._ends = np.fromfile(folder / "ends.i64", dtype="<i8")
        size = path.stat().st_size  # a file of no bytes cannot be mapped
        self._tokens = np.memmap(path, KINDS[path.name], mode="r") if size else np.zeros(0, KINDS[path.name])
        assert len(self._tokens) == self.num_tokens

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.int32]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.int32]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.int32] | list[NDArray[np.int32]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        start = self._ends[at - 1] if at else 0
        return np.asarray(self._tokens[start : self._ends[at]]).astype(np.int32, copy=False)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document; reads no document."""
        return np.diff(self._ends, prepend=0).astype(np.int64)

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents together."""
        return int(self._ends[-1]) if len(self._ends) else 0


@dataclass(frozen=True)
class Prepared:
    """A corpus ready to train on.

    Args:
        train: token ids of every training document.
        heldout: held-out documents, in the order of their hash.
        validation: validation documents, in the order of their hash; empty unless they were asked for.
        sha256: of token ids, ends and reserved documents.
    """

    train: TokenStore
    heldout: tuple[Document, ...]
    validation: tuple[Document, ...]
    sha256: str
    card: DataCard

    @property
    def num_train_tokens(self) -> int:
        """Training tokens of one epoch."""
        return self.train.num_tokens


class StoreWriter:
    """Writes the files of a store and hashes them.

    Args:
        vocabulary_size: one above the largest token id.
    """

    def __init__(self, folder: Path, vocabulary_size: int) -> None:
        name = "tokens.u16" if vocabulary_size <= 2**16 else "tokens.i32"
        self._folder, self._kind = folder, KINDS[name]
        self._tokens: BinaryIO = open(folder / name, "wb")  # noqa: SIM115 (closed by `finish` or `discard`, or lost with its folder)
        self._digest = hashlib.sha256()
        self.lengths: list[int] = []

    def add(self, tokens: NDArray[np.int32]) -> None:
        """One more training document."""
        content = tokens.astype(self._kind).tobytes()
        self._tokens.write(content)
        self._digest.update(tokens.astype("<i4").tobytes())
        self.lengths.append(len(tokens))

    def discard(self) -> None:
        """Close the file; a new writer may overwrite it."""
        self._tokens.close()

    def finish(self, reserved: Sequence[Document]) -> str:
        """Write all other files except the card, and return the sha256 of all of them."""
        ends = np.cumsum(self.lengths, dtype="<i8").tobytes()
        lines = "".join(json.dumps(_fields(d), ensure_ascii=False) + "\n" for d in reserved).encode()
        _close_synced(self._tokens)
        for name, content in (("ends.i64", ends), ("heldout.jsonl", lines)):
            self._digest.update(content)
            write_synced(self._folder / name, content)
        return self._digest.hexdigest()


def open_store(folder: Path) -> Prepared | None:
    """The prepared corpus in `folder`; None if there is none.

    One with a file that is not as it was written is removed, and a line on stderr names the file.
    """
    if not folder.is_dir():
        return None
    if (name := altered_file(folder)) is not None:
        print(f"{printable(folder / name)} is not as it was written; the corpus is prepared again", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    try:
        card = DataCard.load(folder / "card.json")
        with (folder / "heldout.jsonl").open("rb") as file:
            reserved = tuple(Document(**json.loads(line)) for line in file)
        num_heldout = num_leading(reserved, card.heldout_frac)
        return Prepared(TokenStore(folder), reserved[:num_heldout], reserved[num_heldout:], card.sha256, card)
    except (OSError, DataError):
        return None


@contextmanager
def private_folder(cache: Path) -> Iterator[Path]:
    """A new staging folder that only its owner can read; it is removed when the block ends.

    Staging folders of processes that were killed are removed too.

    Raises:
        RunError: the disk is full or the cache cannot be written.
    """
    import fcntl

    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_abandoned(cache)
        staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=cache))
        try:
            with open(staging / "lock", "wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise cannot_write(cache, error) from None


def keep_folder(made: Path, folder: Path) -> None:
    """Write the hashes of the files of `made`, and rename it to `folder`; if another process was faster, its folder stays."""
    FileHashes.write_for(made)
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with open(path, "wb") as file:
        file.write(content)
        _close_synced(file)


def _fields(document: Document) -> dict[str, str]:
    values = {name: getattr(document, name) for name in ("id", "title", "text", "source")}
    return values | ({"split_id": document.split_id} if document.split_id else {})


def _close_synced(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _remove_abandoned(cache: Path) -> None:
    """Remove staging folders whose process has ended: they hold private text and nobody will use them."""
    import fcntl

    for folder in cache.glob(f"{STAGING}*"):
        try:
            with open(folder / "lock", "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:  # just made, or killed before it had a lock
            if folder.is_dir() and time.time() - folder.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use
