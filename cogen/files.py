"""Files that appear whole or not at all: write aside, fsync, rename."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cogen.errors import CogenError, RunError


def write_file(path: Path, content: bytes, *, private: bool = False) -> None:
    """Replace `path` by `content`, atomically; the folder is made when missing.

    Args:
        private: readable by its owner alone, from the first byte on.
    Raises:
        RunError: the disk is full or the place cannot be written; nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(aside, 0o600 if private else 0o644)
            os.replace(aside, path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make `folder` hold just `files`, whole or not at all; an older one is replaced.

    Raises:
        RunError: the disk is full or the place cannot be written; nothing is left behind.
    """
    with building_folder(folder) as aside:
        try:
            for name, content in files.items():
                with open(aside / name, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(folder, error) from None


@contextmanager
def building_folder(folder: Path) -> Iterator[Path]:
    """A folder aside that becomes `folder` when the block ends without an error; else nothing is left behind.

    Raises:
        RunError: the disk is full or the place cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise cannot_write(folder, error) from None
    try:
        yield aside
        try:
            os.chmod(aside, 0o755)
            _sync_folder(aside)
            _swap(aside, folder)
            _sync_folder(folder.parent)
        except OSError as error:
            raise cannot_write(folder, error) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def holding(path: Path, busy: Callable[[], CogenError] | None = None, wait_seconds: float = 0.0) -> Iterator[int]:
    """Hold the lock file `path` for this process and those that inherit the yielded descriptor.

    Args:
        busy: makes the error for a lock that others hold for longer than `wait_seconds`; None waits for them.
    Raises:
        RunError: the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        until = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX if busy is None else fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if busy is not None and time.monotonic() > until:
                    raise busy() from None
                time.sleep(0.2)
        yield handle
    finally:
        os.close(handle)


def _swap(aside: Path, folder: Path) -> None:
    """Rename `aside` to `folder`; an existing folder steps out of the way first, and back if that fails."""
    if not folder.exists():
        os.replace(aside, folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    try:
        os.replace(folder, old / "was")
        try:
            os.replace(aside, folder)
        except OSError:
            os.replace(old / "was", folder)
            raise
    finally:
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cannot_write(path: Path, error: OSError) -> RunError:
    """The one line for a disk that is full or a place that is not writable."""
    reason = "a full disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
    return RunError(
        "cannot write",
        expected="a writable place with room",
        got=reason,
        where=str(path),
        fix="Free some space or name another place, then run the same command again.",
    )
