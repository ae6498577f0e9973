"""Probes and questions that a user wrote: files with one JSON object per line, each with an id."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cogen.errors import DataError


class Item(Protocol):
    """A probe or a question."""

    @property
    def id(self) -> str: ...


Kind = TypeVar("Kind", bound=Item)


def read_items(path: str | Path, what: str, build: Callable[[Mapping[str, Any], str], Kind]) -> tuple[Kind, ...]:
    """The items of a file, in order. Empty lines are ignored.

    Args:
        what: the name of the items in errors, such as `probes`.
        build: makes an item from a JSON object and its place in the file, or raises DataError.
    Raises:
        DataError: the file is missing or empty, a line is not a JSON object, or two items have the same id.
    """
    try:
        lines = Path(path).read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise bad_item(what, "a file in UTF-8", reason, str(path), "Check the path.") from None
    found: dict[str, Kind] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}, line {number}"
            item = build(_object(line, what, where), where)
            if item.id in found:
                raise bad_item(what, "each id once", f"{item.id!r} twice", where)
            found[item.id] = item
    if not found:
        raise bad_item(
            what, "one JSON object a line", "an empty file", str(path), "Write items into the file, or do not name it."
        )
    return tuple(found.values())


def text_of(values: Mapping[str, Any], key: str, what: str, where: str) -> str:
    """The value of `key`, a text that is not blank.

    Raises:
        DataError: the value is missing or something else.
    """
    value = values.get(key)
    if not isinstance(value, str) or not value.strip():
        got = repr(value) if key in values else f"keys {', '.join(sorted(map(str, values)))}"
        raise bad_item(what, f"{key} as text", got, where)
    return value


def texts_of(values: Mapping[str, Any], key: str, what: str, where: str) -> tuple[str, ...]:
    """The value of `key`, a list of different texts that are not blank.

    Raises:
        DataError: the value is missing or something else.
    """
    value = values.get(key)
    if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
        raise bad_item(what, f"{key} as a list of texts", repr(value), where)
    if len(set(value)) < len(value):
        raise bad_item(what, f"{key} that differ", repr(value), where)
    return tuple(value)


def bad_item(what: str, expected: str, got: str, where: str, fix: str = "Correct the line.") -> DataError:
    """The error for an item that cannot be used."""
    return DataError(f"cannot read {what}", expected=expected, got=got, where=where, fix=fix)


def _object(line: str, what: str, where: str) -> Mapping[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise bad_item(what, "one JSON object a line", str(error), where) from None
    if not isinstance(values, dict):
        raise bad_item(what, "one JSON object a line", type(values).__name__, where)
    return values
