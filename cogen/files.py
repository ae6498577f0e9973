"""Files and folders that appear whole or not at all: write to a staging path, fsync, rename."""

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
    """Replace the file `path` by `content`, atomically. Missing folders are made.

    Args:
        private: only the owner can read the file, from its first byte on.
    Raises:
        RunError: the disk is full or the folder cannot be written; no staging file is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, staging = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(staging, 0o600 if private else 0o644)
            os.replace(staging, path)
        except BaseException:
            Path(staging).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace `folder` by one that holds just `files`, whole or not at all.

    Raises:
        RunError: the disk is full or the folder cannot be written; no staging folder is left behind.
    """
    with building_folder(folder) as staging:
        try:
            for name, content in files.items():
                with open(staging / name, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(folder, error) from None


@contextmanager
def building_folder(folder: Path, *, has_one_writer: bool = False) -> Iterator[Path]:
    """A staging folder that replaces `folder` when the block ends without an error, and is removed otherwise.

    Args:
        has_one_writer: no other process writes this folder now, so a staging folder that a killed process left
            behind is removed first.
    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if has_one_writer:
            staging = folder.parent / f".{folder.name}.building"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
        else:
            staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise cannot_write(folder, error) from None
    try:
        yield staging
        try:
            os.chmod(staging, 0o755)
            _sync_folder(staging)
            _swap(staging, folder)
            _sync_folder(folder.parent)
        except OSError as error:
            raise cannot_write(folder, error) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def holding(path: Path, busy: Callable[[], CogenError] | None = None, wait_seconds: float = 0.0) -> Iterator[int]:
    """Hold the lock file `path` for this process and for child processes that inherit the yielded descriptor.

    Args:
        busy: makes the error that is raised if another process holds the lock for longer than `wait_seconds`; None
            waits without a limit.
    Raises:
        RunError: the folder cannot be written.
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


def _swap(staging: Path, folder: Path) -> None:
    """Rename `staging` to `folder`. An existing folder is moved away first, and back if the rename fails."""
    if not folder.exists():
        os.replace(staging, folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    try:
        os.replace(folder, old / "was")
        try:
            os.replace(staging, folder)
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


def free_disk_bytes(path: Path) -> int:
    """Free space of the disk that `path` is on, or would be, in bytes."""
    there = path.absolute()
    return shutil.disk_usage(next(p for p in (there, *there.parents) if p.exists())).free


def cannot_write(path: Path, error: OSError) -> RunError:
    """The error for a full disk or a folder that cannot be written."""
    reason = "a full disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
    return RunError(
        "cannot write",
        expected="a writable place with room",
        got=reason,
        where=str(path),
        fix="Free some space or name another folder, then run the same command again.",
    )
