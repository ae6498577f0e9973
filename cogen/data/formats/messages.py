"""What the process of a reader and the one that asked it tell each other: JSON after its length, never pickled.

Text may hold half a surrogate pair, as the name of a file does whose bytes are not UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cogen.data.document import Document, Item, Note, Skipped
from cogen.errors import DataError

LENGTH_BYTES = 8
# A document of MAX_DOCUMENT_BYTES takes up to six times its bytes as JSON, if all of it is control characters.
MAX_MESSAGE_BYTES = 2**29
_KINDS: tuple[type[Document] | type[Note] | type[Skipped], ...] = (Document, Note, Skipped)


def packed(values: Any) -> bytes:
    """`values` as they travel."""
    content = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return len(content).to_bytes(LENGTH_BYTES, "big") + content


class Unpacker:
    """Puts messages together from whatever pieces arrive."""

    def __init__(self) -> None:
        self._content = bytearray()

    def add(self, piece: bytes) -> Iterator[Any]:
        """The messages that are whole now.

        Raises:
            ValueError: it is no message.
        """
        self._content += piece
        while len(self._content) >= LENGTH_BYTES:
            end = LENGTH_BYTES + int.from_bytes(self._content[:LENGTH_BYTES], "big")
            if end > MAX_MESSAGE_BYTES:
                raise ValueError(f"a message of {end} bytes")
            if len(self._content) < end:
                return
            message = bytes(self._content[LENGTH_BYTES:end])
            del self._content[:end]
            yield json.loads(message.decode("utf-8", "surrogatepass"))


def item_values(item: Item) -> list[Any]:
    """`item` as JSON can hold it: the number of its kind, and its fields."""
    values = list(vars(item).values())
    if isinstance(item, Skipped):
        values[-1] = item.error and item.error.parts
    return [_KINDS.index(type(item)), *values]


def item_of(values: list[Any]) -> Item:
    """The item that `item_values` gave."""
    kind, *fields = values
    if _KINDS[kind] is Skipped and fields[-1]:
        fields[-1] = DataError(**fields[-1])
    item: Item = _KINDS[kind](*fields)
    return item
