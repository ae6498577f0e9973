"""Replies kept at the domain: a request that comes again has its answer at once, after any restart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from cogen.files import write_folder
from cogen.protocol.wire import Frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEADER, ARRAYS = "reply.json", "reply.safetensors"
NUM_KEPT = 4


def request_key(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    """sha256 over all that a reply depends on: action, round, settings, scalings, and every array."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"\n{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def load_reply(folder: Path, key: str) -> Frame | None:
    """The reply to the request of this key, if it was given before and is whole."""
    place = folder / key
    try:
        return Frame(json.loads((place / HEADER).read_bytes()), load((place / ARRAYS).read_bytes()))
    except (OSError, ValueError, SafetensorError):
        return None


def keep_reply(folder: Path, key: str, reply: Frame) -> None:
    """Write a reply, whole or not at all; only the newest few stay.

    Raises:
        RunError: the disk is full or the place cannot be written.
    """
    import shutil

    files = {HEADER: json.dumps(reply.header).encode(), ARRAYS: save(dict(reply.arrays))}
    write_folder(folder / key, files)
    kept = sorted((p for p in folder.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime)
    for old in kept[:-NUM_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
