"""Replies that a joined domain keeps, so that a repeated request costs nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load, save

from cogen.errors import MessageError, RunError
from cogen.file_hashes import FileHashes
from cogen.files import write_folder
from cogen.protocol.messages import AnyMessage, Message, WorkRequest, pack, unpack
from cogen.protocol.wire import Frame

HEADER, ARRAYS = "reply.json", "reply.safetensors"
NUM_KEPT = 4


def request_key(request: WorkRequest) -> str:
    """sha256 over all that the reply depends on: kind, round, settings and every array; not the name of the run."""
    fields = {key: value for key, value in pack(request).header.items() if key != "run"}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for name in sorted(request.arrays):
        array = request.arrays[name]
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def load_reply(folder: Path, key: str, kind: type[AnyMessage]) -> AnyMessage | None:
    """The kept reply to the request of this key; None where there is none, or not as it was written (said on stderr)."""
    place = folder / key
    if not place.is_dir():
        return None
    try:
        files = {name: (place / name).read_bytes() for name in (HEADER, ARRAYS)}
        if FileHashes.load(place / FileHashes.file_name) != FileHashes.of(files):
            raise ValueError("other hashes")
        return unpack(Frame(json.loads(files[HEADER]), load(files[ARRAYS])), kind)
    except (OSError, ValueError, SafetensorError, RunError, MessageError) as error:
        print(f"a kept reply is not used: {place}: {error}", file=sys.stderr, flush=True)
        return None


def keep_reply(folder: Path, key: str, reply: Message) -> None:
    """Write a reply, whole or not at all; only the newest NUM_KEPT stay.

    Raises:
        RunError: the disk is full or the place cannot be written.
    """
    frame = pack(reply)
    files = {HEADER: json.dumps(frame.header).encode(), ARRAYS: save(dict(frame.arrays))}
    write_folder(folder / key, {**files, FileHashes.file_name: FileHashes.of(files).to_json().encode()})
    kept = sorted((p for p in folder.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime)
    for old in kept[:-NUM_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
