"""JSON lines: each line is an object with `text`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from cogen.data.document import MEND_LINE, Document, Item, Note, Skipped, SourceLocation, bad_data, document_of
from cogen.data.formats.columns import ABOUT, contents, cropped, listed, plain_name
from cogen.data.formats.lines import LineQueue, TextLine, text_lines

MAX_UNREAD_KEYS = 64
EXPECTED = "an object with a non-empty string `text`"


def read_jsonl(file: BinaryIO, place: SourceLocation) -> Iterator[Item]:
    """One document for each line; empty lines are ignored. A key that differs from `text` in case alone is taken for it.

    Raises:
        DataError: a value goes on over several lines.
    """
    lines, reader = LineQueue(text_lines(file, place)), _Objects(place)
    while (line := lines.take()) is not None:
        if line.error is not None:
            yield Skipped.of(line.error, line.num_bytes)
        elif not line.text.strip():
            yield Note(place.path, "", line.num_bytes)
        else:
            yield reader.item(line, lines.peek)
    yield from reader.notes()


class _Repeated(dict[str, Any]):
    """An object in which a key stands twice with different values."""

    key = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if plain_name(key) == "text" and found[key] != value:
                found = _Repeated(found)
                found.key = key
                break
    return found


class _Objects:
    """The objects of one file, and what of them is not read."""

    def __init__(self, place: SourceLocation) -> None:
        self._place, self._is_first = place, True
        self._unread: dict[str, tuple[str, int]] = {}
        self._num_chars, self._named = 0, ""

    def item(self, line: TextLine, peek: Callable[[], TextLine | None]) -> Item:
        where, is_first = self._place.line(line.number), self._is_first
        self._is_first = False
        try:
            values = json.loads(line.text.rstrip("\r\n"), object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            self._require_one_line(line, peek(), is_first, error)
            got = f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
            if error.msg == "Extra data":
                got = f"more after it, from character {error.pos + 1} on"
            return Skipped.of(bad_data(where, "one JSON object a line", got, MEND_LINE), line.num_bytes)
        except (ValueError, RecursionError) as error:
            return Skipped.of(bad_data(where, "one JSON object a line", str(error), MEND_LINE), line.num_bytes)
        key = _text_key(values) if isinstance(values, dict) else None
        if key is None:
            return Skipped.of(bad_data(where, EXPECTED, _described(values), MEND_LINE), line.num_bytes)
        return self._document(values, key, where, line.num_bytes)

    def notes(self) -> Iterator[Note]:
        """What keys of the documents were not read."""
        if self._named:
            yield Note(self._place.path, f"text = {self._named}")
        total = self._num_chars + sum(size for _, size in self._unread.values())
        shown = [
            f"{_shown(key)} ({kind}" + (f", {size / total:.0%} of the characters)" if kind == "text" else ")")
            for key, (kind, size) in sorted(self._unread.items(), key=lambda item: -item[1][1])
        ]
        if shown:
            yield Note(self._place.path, "keys not read: " + listed(shown))

    def _document(self, values: dict[str, Any], key: str, where: str, num_bytes: int) -> Document | Skipped:
        taken = {field: name for field in ABOUT for name in [_key(values, field)] if name is not None}
        fields = {field: values[name] for field, name in taken.items()} | {"text": values[key]}
        if fields.get("id") != fields.get("id"):
            fields["id"] = None  # NaN
        found = document_of(fields, where, self._place.file_name, num_bytes)
        if isinstance(found, Document):
            self._num_chars += len(found.text)
            self._named = self._named or (cropped(key) if key != "text" else "")
            for name, value in values.items():
                if name != key and name not in taken.values():
                    self._add_unread(name, value)
        return found

    def _add_unread(self, key: str, value: Any) -> None:
        if key not in self._unread and len(self._unread) >= MAX_UNREAD_KEYS:
            return
        kind, size = self._unread.get(key, ("nothing", 0))
        now = contents([value]) if isinstance(value, str) else _KINDS.get(type(value), "nothing")
        order = ("nothing", "numbers", "words", "lists", "objects", "text")
        kind = max(kind, now, key=order.index)
        self._unread[key] = kind, size + (len(value) if isinstance(value, str) else 0)

    def _require_one_line(
        self, line: TextLine, following: TextLine | None, is_first: bool, error: json.JSONDecodeError
    ) -> None:
        """Refuse the rest of a file in which one value goes on over several lines: a torn line has an object below it."""
        text, after = line.text.strip(), following.text.lstrip() if following else ""
        is_open = text[0] in "[{" and error.pos >= len(line.text.rstrip()) and bool(after)
        if is_open and (after.startswith('"') or (is_first and text[0] == "[")):
            got = "one JSON array over several lines" if text[0] == "[" else "an object over several lines"
            where = self._place.path if is_first else self._place.line(line.number)
            raise bad_data(where, "one JSON object a line", got, "Write each object on a line of its own.")


_KINDS = {bool: "numbers", int: "numbers", float: "numbers", list: "lists", dict: "objects", _Repeated: "objects"}


def _key(values: dict[str, Any], field: str) -> str | None:
    """The key of a field: itself, or the only one that differs from it in case or spaces."""
    if field in values:
        return field
    found = [key for key in values if plain_name(key) == field]
    return found[0] if len(found) == 1 else None


def _text_key(values: dict[str, Any]) -> str | None:
    """The key of the text; None if there is none."""
    key = _key(values, "text")
    is_read = key is not None and isinstance(values[key], str) and values[key].strip()
    return key if is_read and getattr(values, "key", None) != key else None


def _described(values: Any) -> str:
    """What stands in place of an object with text."""
    if not isinstance(values, dict):
        return _named(values)
    if isinstance(values, _Repeated):
        return f"{values.key!r} twice"
    shown = sorted(values.items(), key=lambda item: plain_name(item[0]) != "text")
    keys = listed(f"{_shown(key)} ({_named(value)})" for key, value in shown)
    return f"an object with keys {keys}" if values else "an object without keys"


def _shown(key: str) -> str:
    return key if key.isidentifier() and len(key) <= 40 else cropped(key, 40)


def _named(value: Any) -> str:
    if isinstance(value, str):
        size = "no characters" if not value else "1 character" if len(value) == 1 else f"{len(value)} characters"
        return f"string of {size}" if value.strip() or not value else "string of spaces"
    if isinstance(value, list):
        return f"list of {len(value)}"
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true or false"
    return "object" if isinstance(value, dict) else "number"
