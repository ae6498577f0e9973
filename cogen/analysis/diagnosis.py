"""What a look at adapters before a merge comes to: numbers by pair, by family and overall, and findings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from cogen.errors import RunError

FORMAT = 1
LEVELS = ("problem", "hint", "note")
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """Something about one adapter that a reader should know.

    Args:
        adapter: its name; empty where it is about all of them.
        kind: refused, fingerprint, modules, shape, unreadable, norm, module norm, spectrum or cohort.
        level: "problem" (a merge would refuse it or go wrong), "hint" (look at it) or "note".
        module: the one it shows most in; empty where that makes no sense.
        text: one or two sentences.
    """

    adapter: str
    kind: str
    level: str
    module: str
    text: str


@dataclass(frozen=True)
class AdapterSummary:
    """One adapter: its largest rank, how many modules it changes, the norm of all of its update."""

    name: str
    rank: int
    num_modules: int
    norm: float


@dataclass(frozen=True)
class Pair:
    """Two adapters, all modules together; None where no module is changed by both. See `diagnose`."""

    first: str
    second: str
    output_overlap: float | None
    output_chance: float | None
    input_overlap: float | None
    input_chance: float | None
    cosine: float | None
    meeting_frac: float | None
    sign_conflict_frac: float | None
    norm_ratio: float | None


@dataclass(frozen=True)
class Family:
    """Modules of one kind (`q_proj` of all layers), all pairs together."""

    name: str
    num_modules: int
    energy_frac: float
    output_overlap: float | None
    output_chance: float | None
    input_overlap: float | None
    input_chance: float | None
    cosine: float | None
    meeting_frac: float | None
    sign_conflict_frac: float | None
    num_directions: int
    num_shared_directions: int


@dataclass(frozen=True)
class EnergyAtRank:
    """The part of the energy of the equal-weight mean that its best cut at `rank` keeps."""

    rank: int
    energy_frac: float


@dataclass(frozen=True)
class Diagnosis:
    """All of it; the fields are explained at `cogen.analysis.diagnose.diagnose`."""

    adapters: tuple[AdapterSummary, ...]
    num_modules: int
    pairs: tuple[Pair, ...]
    families: tuple[Family, ...]
    num_directions: int
    num_shared_directions: int
    shared_energy_frac: float | None
    energy_by_rank: tuple[EnergyAtRank, ...]
    rank_for_90: int | None
    rank_for_99: int | None
    factor_average_error: float | None
    factor_average_reason: str
    findings: tuple[Finding, ...]

    def pair(self, first: str, second: str) -> Pair | None:
        """The numbers of two adapters, in whatever order they are named."""
        return next((p for p in self.pairs if {p.first, p.second} == {first, second}), None)

    def to_json(self) -> str:
        """The text of `diagnosis.json`."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Diagnosis:
        """Read the text of a `diagnosis.json`; `where` names it in errors.

        Raises:
            RunError: not JSON, another format, a field missing or out of bounds, a name or a pair twice.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise _malformed("JSON", f"unreadable text: {error}", where) from None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            got = f"format {values.get('format')!r}" if isinstance(values, dict) else type(values).__name__
            raise _malformed(f"an object of format {FORMAT}", got, where)
        del values["format"]
        for name, kind in _LISTS.items():
            if not isinstance(values.get(name), list):
                raise _malformed(f"a list of {name}", type(values.get(name)).__name__, where)
            values[name] = tuple(_read(kind, row, f"{where}, {name} {i}") for i, row in enumerate(values[name], 1))
        found = _read(cls, values, where)
        _refuse_twins([a.name for a in found.adapters], where)
        _refuse_twins([" and ".join(sorted((p.first, p.second))) for p in found.pairs], where)
        if strange := {n for p in found.pairs for n in (p.first, p.second)} - {a.name for a in found.adapters}:
            raise _malformed("pairs of the adapters that are named", repr(min(strange)), where)
        return found


_LISTS: Mapping[str, Any] = {
    "adapters": AdapterSummary,
    "pairs": Pair,
    "families": Family,
    "energy_by_rank": EnergyAtRank,
    "findings": Finding,
}


def _read(kind: type[T], row: object, where: str) -> T:
    """A dataclass from an object with just its fields, each of its type and within its bounds."""
    wanted = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(row, Mapping) or set(row) != set(wanted):
        got = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        raise _malformed(f"the fields {', '.join(wanted)}", got, where)
    return kind(**{name: _checked(name, type_, row[name], where) for name, type_ in wanted.items()})


def _checked(name: str, type_: str, value: Any, where: str) -> Any:
    if type_.startswith("tuple") or (value is None and type_.endswith("None")):
        return value
    if type_ == "str":
        if not isinstance(value, str) or (name == "level" and value not in LEVELS):
            raise _malformed(f"{name} as {'one of ' + ', '.join(LEVELS) if name == 'level' else 'text'}", value, where)
        return value
    if type_.startswith("int"):
        if type(value) is not int or value < 0:
            raise _malformed(f"{name} as a whole number >= 0", value, where)
        return value
    low, high = _bounds(name)
    if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
        raise _malformed(f"{name} as a number in [{low:g}, {high:g}]", value, where)
    return float(value)


def _bounds(name: str) -> tuple[float, float]:
    if name == "cosine":
        return -1.0, 1.0
    return 0.0, 1.0 if name.endswith(("_frac", "_overlap", "_chance")) else math.inf


def _refuse_twins(names: Sequence[str], where: str) -> None:
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise _malformed("each adapter and each pair once", f"{doubled[0]} twice", where)


def _malformed(expected: str, got: object, where: str) -> RunError:
    return RunError(
        "cannot read diagnosis",
        expected=expected,
        got=got if isinstance(got, str) else repr(got),
        where=where,
        fix="Write it anew with `cogen diagnose`.",
    )
