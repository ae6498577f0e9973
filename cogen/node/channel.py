"""The Unix socket between a domain's programs: open to this user alone, at a path of any length."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATH_LIMIT_BYTES = 100  # of an address: 108 on Linux, 104 elsewhere


def listen_at(path: Path) -> socket.socket:
    """A listening socket at `path`, mode 0600. It replaces one that a dead process left behind.

    The path appears when the socket listens, so a program that sees it can connect.
    """
    staging = path.with_name(f"{path.name}.new")
    staging.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        with _address(staging) as address:
            listener.bind(address)
    finally:
        os.umask(before)
    listener.listen(8)
    os.replace(staging, path)
    return listener


def connect_to(path: Path) -> socket.socket:
    """A connection to the program that listens at `path`.

    Raises:
        OSError: none does.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(path) as address:
            connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def is_same_user(connection: socket.socket) -> bool:
    """Whether the other side runs as this user. Only Linux can tell; elsewhere the folder's mode must protect the socket."""
    if not sys.platform.startswith("linux"):
        return True
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(uid == os.getuid())


def lasting_address(path: Path) -> str:
    """The address of the socket at `path` in this process, for a client that connects again and again.

    For a path that is too long, a descriptor of its folder stays open.
    """
    return str(path) if _fits(path) else _through(_open_folder(path), path)


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """The path, or if it is too long for a socket address, one through its folder's descriptor (Linux)."""
    if _fits(path):
        yield str(path)
        return
    folder = _open_folder(path)
    try:
        yield _through(folder, path)
    finally:
        os.close(folder)


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= PATH_LIMIT_BYTES or not sys.platform.startswith("linux")


def _open_folder(path: Path) -> int:
    return os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)


def _through(folder: int, path: Path) -> str:
    return f"/proc/self/fd/{folder}/{path.name}"
