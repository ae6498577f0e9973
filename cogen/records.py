"""TOML files as frozen pydantic models: bounds and units, unknown keys refused with the nearest known one."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from cogen.errors import ConfigError


class Table(BaseModel):
    """A TOML table: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    renamed: ClassVar[Mapping[str, str]] = {}
    """Keys of earlier versions and what they are called now."""


Model = TypeVar("Model", bound=Table)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: no such file, or not TOML in UTF-8.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise _bad_config("a TOML file", "no such file", path, "Check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise _bad_config("TOML in UTF-8", str(error), path, "Mend the file.") from None


def validated(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """`values` as a model; `where` is named in the error.

    Raises:
        ConfigError: unknown key, value missing or out of bounds.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explain(model, error, where) from None


def apply_overrides(values: dict[str, Any], overrides: Iterable[str]) -> None:
    """Put `table.key=value` settings into `values`, in place.

    Raises:
        ConfigError: not of that form, or no such table.
    """
    for text in overrides:
        key, equals, value = text.partition("=")
        table, dot, name = key.strip().partition(".")
        if not (equals and dot and name):
            raise _bad_config("table.key=value", repr(text), "--set", "For example --set train.rank=8.")
        if table == "domains" or not isinstance(values.setdefault(table, {}), dict):
            raise _bad_config("a table such as train", repr(table), "--set", "Change domains in the file.")
        values[table][name] = _toml_value(value.strip())


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(model: type[Table], error: ValidationError, where: str) -> ConfigError:
    """The first problem as one line; an unknown key gets the nearest known one."""
    first = error.errors()[0]
    place = ".".join(str(p) for p in first["loc"])
    if first["type"] == "extra_forbidden":
        table, key = _table_at(model, first["loc"][:-1]), str(first["loc"][-1])
        known = list(table.model_fields)
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        fix = f"Did you mean {near[0]!r}?" if near else "Remove it."
        if key in table.renamed:
            fix = f"It is called {table.renamed[key]!r} now."
        return _bad_config("one of " + ", ".join(sorted(known)), f"unknown key {place!r}", where, fix)
    got = "nothing" if first["type"] == "missing" else repr(first["input"])
    if first["type"] == "value_error":
        return _bad_config("a consistent config", first["msg"].removeprefix("Value error, "), where, "Mend it.")
    return _bad_config(f"{place}: {first['msg']}", got, where, f"Mend {place}.")


def _table_at(model: Any, loc: tuple[int | str, ...]) -> type[Table]:
    """The table inside `model` that an error's place names."""
    for part in loc:
        if isinstance(part, int):
            continue
        kind = model.model_fields[part].annotation
        inner = [a for a in get_args(kind) if isinstance(a, type)]
        model = inner[0] if inner else kind
    found: type[Table] = model
    return found


def _bad_config(expected: str, got: str, where: Path | str, fix: str) -> ConfigError:
    return ConfigError("cannot use config", expected=expected, got=got, where=str(where), fix=fix)
