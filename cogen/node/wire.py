"""How arrays travel, without pickle and without torch: in frames between a ClientApp and its resident trainer (a JSON
header and named arrays), and packed into one array in a message of Flower's, which sends each array by itself, in
several signed requests.
"""

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
PACKED = "safetensors"


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


def pack(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Named arrays as one of bytes, `(num_bytes,)`: the safetensors format, names in order."""
    import numpy as np

    held = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    return {PACKED: np.frombuffer(save(held), dtype=np.uint8)}


def unpack(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The inverse of `pack`.

    Raises:
        ValueError: anything else than what `pack` makes.
    """
    import numpy as np
    from safetensors import SafetensorError

    if arrays.keys() != {PACKED} or arrays[PACKED].dtype != np.uint8 or arrays[PACKED].ndim != 1:
        raise ValueError(f"expected one array {PACKED!r} of bytes")
    try:
        return load(arrays[PACKED].tobytes())
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that numpy does not have
        raise ValueError(f"not in the safetensors format: {error}") from None


def _exactly(connection: socket.socket, num_bytes: int) -> bytes:
    chunks = bytearray()
    while len(chunks) < num_bytes:
        got = connection.recv(min(1 << 20, num_bytes - len(chunks)))
        if not got:
            raise EOFError("the other side closed the connection")
        chunks += got
    return bytes(chunks)
