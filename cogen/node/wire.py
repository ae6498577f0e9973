"""Frames between a ClientApp and its resident trainer: a JSON header and named arrays, no pickle, no torch."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from safetensors.numpy import load, save

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZES = struct.Struct(">QQ")


@dataclass(frozen=True)
class Frame:
    """One request or answer."""

    header: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def send(connection: socket.socket, frame: Frame) -> None:
    """Write a whole frame."""
    header, arrays = json.dumps(frame.header).encode(), save(dict(frame.arrays))
    connection.sendall(SIZES.pack(len(header), len(arrays)))
    connection.sendall(header)
    connection.sendall(arrays)


def receive(connection: socket.socket) -> Frame:
    """Read a whole frame.

    Raises:
        EOFError: the other side is gone.
    """
    header, arrays = SIZES.unpack(_exactly(connection, SIZES.size))
    return Frame(json.loads(_exactly(connection, header)), load(_exactly(connection, arrays)))


def _exactly(connection: socket.socket, num_bytes: int) -> bytes:
    chunks = bytearray()
    while len(chunks) < num_bytes:
        got = connection.recv(min(1 << 20, num_bytes - len(chunks)))
        if not got:
            raise EOFError("the other side closed the connection")
        chunks += got
    return bytes(chunks)
