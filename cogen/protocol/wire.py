"""How arrays travel, without pickle and without torch: in frames, a JSON header and named arrays.

A frame goes over a socket between a ClientApp and its resident trainer, and in a message of Flower's as one record
of bytes: Flower sends every record, array and chunk by itself, each in a signed request through two TLS connections
(seven of them for a round's message by Flower's own records, three so).
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
PIECE, PIECE_BYTES = "frame", 16 << 20  # a piece that is lost on the way is sent again by itself


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


def to_records(frame: Frame) -> dict[str, dict[str, bytes]]:
    """A frame as records of bytes for one message: `0`, and where it is large `1`, `2` ..., each up to PIECE_BYTES."""
    import numpy as np

    arrays = save({name: np.ascontiguousarray(frame.arrays[name]) for name in sorted(frame.arrays)})
    header = json.dumps(frame.header).encode()
    whole = b"".join((SIZES.pack(len(header), len(arrays)), header, arrays))
    starts = range(0, len(whole), PIECE_BYTES)
    return {str(i): {PIECE: whole[start : start + PIECE_BYTES]} for i, start in enumerate(starts)}


def from_records(records: Mapping[str, Mapping[str, Any]]) -> Frame:
    """The inverse of `to_records`; of bytes from anybody.

    Raises:
        ValueError: anything else than what `to_records` makes.
    """
    from safetensors import SafetensorError

    if set(records) != {str(i) for i in range(len(records))} or not records:
        raise ValueError(f"expected records '0', '1', ... of a frame, got {sorted(records)[:4]}")
    pieces = [dict(records[str(i)]).get(PIECE) for i in range(len(records))]
    whole = b"".join(p if isinstance(p, bytes) else b"" for p in pieces)
    if len(whole) < SIZES.size or len(whole) != SIZES.size + sum(SIZES.unpack_from(whole)):
        raise ValueError("expected a whole frame of bytes")
    middle = SIZES.size + SIZES.unpack_from(whole)[0]
    try:
        header, arrays = json.loads(whole[SIZES.size : middle]), load(whole[middle:])
    except (SafetensorError, KeyError, RecursionError) as error:  # KeyError: a dtype that numpy does not have
        raise ValueError(f"not a frame: {type(error).__name__}: {error}") from None
    if not isinstance(header, dict) or not all(isinstance(part, dict) for part in header.values()):
        raise ValueError("expected a header of tables")
    return Frame(header, arrays)


def _exactly(connection: socket.socket, num_bytes: int) -> bytes:
    chunks = bytearray()
    while len(chunks) < num_bytes:
        got = connection.recv(min(1 << 20, num_bytes - len(chunks)))
        if not got:
            raise EOFError("the other side closed the connection")
        chunks += got
    return bytes(chunks)
