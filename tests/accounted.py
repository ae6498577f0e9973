"""Reading a file in tests, and the law of its bytes."""

from __future__ import annotations

from pathlib import Path

from cogen.data.document import Item, Skipped
from cogen.data.formats import bytes_of, read_file


def require_accounted(found: list[Item], size: int) -> None:
    """The bytes of all items are those of the file, and no reader has forgotten any."""
    assert sum(map(bytes_of, found)) == size
    assert all(bytes_of(item) >= 0 for item in found)
    assert not [i for i in found if isinstance(i, Skipped) and "no document was made" in i.reason]


def accounted_items(folder: Path, suffix: str, content: bytes) -> list[Item]:
    """What is read of a file with this content."""
    path = folder / f"a{suffix}"
    path.write_bytes(content)
    found = list(read_file(path, path.name))
    require_accounted(found, len(content))
    return found
