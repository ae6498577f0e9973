"""Files as frozen pydantic models: `Table` for TOML that people write, `Record` for JSON that CO-GEN writes."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cogen.errors import CogenError, ConfigError, RunError
from cogen.files import write_file

MAX_SHOWN = 200  # characters of a wrong value that an error shows
Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]


class Table(BaseModel):
    """A TOML table: frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    renamed: ClassVar[Mapping[str, str]] = {}
    """Keys of earlier versions and what they are called now."""


class Inconsistent(ValueError):
    """A record contradicts itself. `Record.check` raises it with what was expected and what the file has."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(expected, got)
        self.expected, self.got = expected, got


class Record(BaseModel):
    """A JSON file that CO-GEN writes and reads back: frozen, strictly typed, with the number of its format.

    A subclass declares `format: Literal[n] = n`, its fields, and the four class variables. Fields may be plain
    dataclasses; the same strictness holds for them.

    Attributes:
        file_name: the name of the file, for errors.
        error: the class of error for a file that cannot be used.
        fix: one sentence that says what to do with such a file.
        requires_all: whether the file must have the fields that have a default, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    file_name: ClassVar[str]
    error: ClassVar[type[CogenError]] = RunError
    fix: ClassVar[str] = "Write it again with the command that made it, or move it away."
    requires_all: ClassVar[bool] = False

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            CogenError: of the class `error`, for a file that is missing, is not JSON, has another format or wrong fields.
        """
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise cls._unreadable("a file", "none", str(path)) from None
        except OSError as error:
            raise cls._unreadable("a readable file", error.strerror or str(error), str(path)) from None
        return cls.from_json(content, str(path))

    @classmethod
    def load_if_present(cls, path: Path) -> Self | None:
        """Like `load`; None for a file that is missing."""
        return cls.load(path) if path.is_file() else None

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Self:
        """Read the text of the file.

        Args:
            where: names the file in an error.
        Raises:
            CogenError: as `load`.
        """
        try:
            found = cls.model_validate_json(text)
            found._require_fields()
            found.check()
        except ValidationError as error:
            raise cls._unreadable(*_explain_record(cls, error), where) from None
        except Inconsistent as error:
            raise cls._unreadable(error.expected, error.got, where) from None
        return found

    def check(self) -> None:
        """Raise Inconsistent where a file breaks a rule that its types do not express."""

    def to_json(self) -> str:
        """The text of the file; the same record gives the same text."""
        return json.dumps(self.model_dump(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, path: Path, *, private: bool = False) -> None:
        """Replace the file `path`, whole or not at all.

        Args:
            private: only the owner can read the file.
        Raises:
            RunError: the disk is full or the place cannot be written.
        """
        write_file(path, self.to_json().encode(), private=private)

    def _require_fields(self) -> None:
        name, number = _format_of(type(self))
        if name not in self.model_fields_set:
            raise Inconsistent(f"format {number}", "no format")
        if self.requires_all and (absent := set(type(self).model_fields) - self.model_fields_set):
            raise Inconsistent(f"a field {min(absent)}", "none")

    @classmethod
    def _unreadable(cls, expected: str, got: str, where: str) -> CogenError:
        return cls.error(
            f"cannot read {cls.file_name}", expected=expected, got=got[:MAX_SHOWN], where=where, fix=cls.fix
        )


Model = TypeVar("Model", bound=Table)


def read_toml(path: Path) -> dict[str, Any]:
    """Read the tables of a TOML file.

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


def _explain_record(model: type[Record], error: ValidationError) -> tuple[str, str]:
    """What was expected and what was there: another format first, else the first problem."""
    name, number = _format_of(model)
    problems = error.errors(include_url=False)
    first = next((p for p in problems if p["loc"] == (name,)), problems[0])
    kind, value, place = first["type"], first["input"], ".".join(str(part) for part in first["loc"])
    if kind == "json_invalid":
        return "JSON in UTF-8", first["ctx"]["error"]
    if not place:
        return f"an object of format {number}", type(value).__name__
    if place == name:
        return f"format {number}", "no format" if kind == "missing" else f"format {value!r}"
    if kind.startswith("missing"):
        return f"a field {place}", "none"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"no field {place}", repr(value)
    rule = re.sub(r"^[A-Z][a-z]+ should ", "", first["msg"]).replace("a valid array", "a list")
    return f"{place} to {rule}", repr(value)


def _format_of(model: type[Record]) -> tuple[str, int]:
    """The field that holds the format of a file, and the number that this version reads and writes."""
    name = "format" if "format" in model.model_fields else "format_version"
    return name, model.model_fields[name].default


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
