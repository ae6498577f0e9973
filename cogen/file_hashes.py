"""The sha256 of every file of a folder, in `hashes.json` next to them: written last, compared whenever the folder is used.

They find a bit that flipped on the disk, a file that was cut off, and one that was put in another's place. They do not stop
someone who may write the folder and writes `hashes.json` too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

from cogen.errors import RunError
from cogen.records import Record


class FileHashes(Record):
    """`hashes.json`."""

    file_name: ClassVar[str] = "hashes.json"

    format: Literal[1] = 1
    sha256: Mapping[str, str]
    """File name to sha256 in hex."""

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> Self:
        """The hashes of these contents by name."""
        return cls(sha256={name: hashlib.sha256(content).hexdigest() for name, content in files.items()})

    @classmethod
    def write_for(cls, folder: Path) -> None:
        """Hash the files of `folder` and write the hashes into it; only the owner can read them."""
        names = sorted(path.name for path in folder.iterdir() if path.name != cls.file_name)
        cls(sha256={name: file_sha256(folder / name) for name in names}).write(folder / cls.file_name, private=True)


def altered_file(folder: Path) -> str | None:
    """The name of a file that is not as it was written, is missing, or has no hash; None if there is none."""
    try:
        known = FileHashes.load(folder / FileHashes.file_name).sha256
        names = {path.name for path in folder.iterdir()} - {FileHashes.file_name}
    except (RunError, OSError):
        return FileHashes.file_name
    for name in sorted(names | known.keys()):
        try:
            if name not in known or file_sha256(folder / name) != known[name]:
                return name
        except OSError:
            return name
    return None


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
