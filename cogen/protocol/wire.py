"""Messages as bytes, without pickle and without torch: a frame is a JSON header and named arrays (safetensors).

A frame travels over a Unix socket between a ClientApp and its trainer process, and in a Flower message as records of
bytes. Flower sends every record, array and chunk on its own, each in a signed request over two TLS connections: Flower's
own records take seven requests for the message of a round, one record of bytes takes three.

Flower names every object by the sha256 of its content, in one store for all members. So each record begins with a nonce:
without it, a member could announce an object of another one before that one does, and so make it unusable.
"""

from __future__ import annotations

import json
import secrets
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from safetensors.numpy import load, save

from cogen.errors import MessageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZES = struct.Struct(">QQ")
PIECE, PIECE_BYTES = "frame", 16 << 20  # a lost piece is sent again on its own
NONCE_BYTES, MAX_PIECES = 16, 64
MAX_OBJECTS, MAX_DEPTH = MAX_PIECES + 2, 3  # of a message in Flower's store: itself, its content, and the records in it


@dataclass(frozen=True)
class Frame:
    """The fields of a message as JSON values, and its arrays."""

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


def new_nonce() -> bytes:
    """NONCE_BYTES random bytes."""
    return secrets.token_bytes(NONCE_BYTES)


def to_records(frame: Frame, nonce: bytes) -> dict[str, dict[str, bytes]]:
    """A frame as the records of a Flower message: `0`, and for a large one `1`, `2` ..., each up to PIECE_BYTES.

    Args:
        nonce: begins every record; `new_nonce()` for a request, the request's own for a reply.
    Raises:
        MessageError: the frame takes more than MAX_PIECES records, which the gateway would refuse.
        ValueError: the nonce has another length.
    """
    import numpy as np

    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"expected a nonce of {NONCE_BYTES} bytes, got {len(nonce)}")

    arrays = save({name: np.ascontiguousarray(frame.arrays[name]) for name in sorted(frame.arrays)})
    header = json.dumps(frame.header).encode()
    whole = b"".join((SIZES.pack(len(header), len(arrays)), header, arrays))
    room = PIECE_BYTES - NONCE_BYTES
    starts = range(0, len(whole), room)
    if len(starts) > MAX_PIECES:
        raise MessageError(
            "the message is too large",
            expected=f"up to {MAX_PIECES * room:,} bytes",
            got=f"{len(whole):,}",
            fix="Lower train.rank, or train fewer modules.",
        )
    return {str(i): {PIECE: nonce + whole[start : start + room]} for i, start in enumerate(starts)}


def nonce_of(records: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The nonce with which every record of a message begins.

    Raises:
        ValueError: there is none, or there are several.
    """
    pieces = [dict(record).get(PIECE) for record in records.values()]
    found = {p[:NONCE_BYTES] if isinstance(p, bytes) else b"" for p in pieces}
    if len(found) != 1 or len(nonce := found.pop()) != NONCE_BYTES:
        raise ValueError("expected one nonce in all records of a frame")
    return nonce


def from_records(records: Mapping[str, Mapping[str, Any]]) -> Frame:
    """The inverse of `to_records`; the bytes may come from anybody.

    Raises:
        ValueError: they are not what `to_records` makes.
    """
    from safetensors import SafetensorError

    if len(records) > MAX_PIECES or set(records) != {str(i) for i in range(len(records))} or not records:
        raise ValueError(f"expected records '0', '1', ... of a frame, got {sorted(records)[:4]}")
    nonce_of(records)
    whole = b"".join(records[str(i)][PIECE][NONCE_BYTES:] for i in range(len(records)))
    if len(whole) < SIZES.size or len(whole) != SIZES.size + sum(SIZES.unpack_from(whole)):
        raise ValueError("expected a whole frame of bytes")
    middle = SIZES.size + SIZES.unpack_from(whole)[0]
    try:
        header, arrays = json.loads(whole[SIZES.size : middle]), load(whole[middle:])
    except (SafetensorError, KeyError, RecursionError) as error:  # KeyError: a dtype that numpy does not have
        raise ValueError(f"not a frame: {type(error).__name__}: {error}") from None
    if not isinstance(header, dict):
        raise ValueError("expected a header with the fields of a message")
    return Frame(header, arrays)


def _exactly(connection: socket.socket, num_bytes: int) -> bytes:
    chunks = bytearray()
    while len(chunks) < num_bytes:
        got = connection.recv(min(1 << 20, num_bytes - len(chunks)))
        if not got:
            raise EOFError("the other side closed the connection")
        chunks += got
    return bytes(chunks)
