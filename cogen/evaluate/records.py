"""Files with one JSON object a line, each of which is checked by what it is to become."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cogen.errors import DataError


class Record(Protocol):
    """Whatever has an id."""

    @property
    def id(self) -> str: ...


Kind = TypeVar("Kind", bound=Record)


def read_records(path: str | Path, what: str, build: Callable[[Mapping[str, Any], str], Kind]) -> tuple[Kind, ...]:
    """The records of a file, in order; empty lines are passed over.

    Args:
        what: the records are called, in errors.
        build: makes a record of an object and of where it stands, or raises.
    Raises:
        DataError: no such file, nothing in it, a line that is no object, an id twice.
    """
    try:
        lines = Path(path).read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise bad_record(what, "a file in UTF-8", reason, str(path), "Check the path.") from None
    found: dict[str, Kind] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}, line {number}"
            record = build(_object(line, what, where), where)
            if record.id in found:
                raise bad_record(what, "each id once", f"{record.id!r} twice", where)
            found[record.id] = record
    if not found:
        raise bad_record(what, "one JSON object a line", "an empty file", str(path), "Fill it or leave it out.")
    return tuple(found.values())


def text_of(values: Mapping[str, Any], key: str, what: str, where: str) -> str:
    """A string that is not blank, from a record.

    Raises:
        DataError: it is something else.
    """
    value = values.get(key)
    if not isinstance(value, str) or not value.strip():
        got = repr(value) if key in values else f"keys {', '.join(sorted(map(str, values)))}"
        raise bad_record(what, f"{key} as text", got, where)
    return value


def texts_of(values: Mapping[str, Any], key: str, what: str, where: str) -> tuple[str, ...]:
    """A list of different strings, none of them blank, from a record.

    Raises:
        DataError: it is something else.
    """
    value = values.get(key)
    if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
        raise bad_record(what, f"{key} as a list of texts", repr(value), where)
    if len(set(value)) < len(value):
        raise bad_record(what, f"{key} that differ", repr(value), where)
    return tuple(value)


def bad_record(what: str, expected: str, got: str, where: str, fix: str = "Mend the line.") -> DataError:
    """A record that cannot be used."""
    return DataError(f"cannot read {what}", expected=expected, got=got, where=where, fix=fix)


def _object(line: str, what: str, where: str) -> Mapping[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise bad_record(what, "one JSON object a line", str(error), where) from None
    if not isinstance(values, dict):
        raise bad_record(what, "one JSON object a line", type(values).__name__, where)
    return values
