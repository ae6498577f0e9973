"""What may lie beside a run's events and its matrix: each file is read if it is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from cogen.analysis.diagnosis import Diagnosis
from cogen.errors import RunError
from cogen.evaluate.seed_summary import SeedSummary
from cogen.evaluate.seed_summary_read import read_seed_summary

T = TypeVar("T")
FORMAT = 1


@dataclass(frozen=True)
class MergeShare:
    """An adapter's Shapley value for a domain, with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Contribution:
    """What one adapter does for one domain, in bits per byte; above 0 is better."""

    leave_one_out: float
    shapley: MergeShare


@dataclass(frozen=True)
class Contributions:
    """`contributions.json`: adapter to domain to contribution."""

    is_exact: bool
    num_permutations: int
    adapters: dict[str, dict[str, Contribution]]


@dataclass(frozen=True)
class CorpusAmounts:
    """How much there is of one domain's text, after cleaning."""

    num_documents: int
    num_tokens: int
    num_heldout_documents: int
    num_heldout_tokens: int
    num_dropped_documents: int = 0
    num_files_skipped: int = 0
    sha256: str = ""


@dataclass(frozen=True)
class RunMetadata:
    """`run_metadata.json`: versions and data of a simulation."""

    versions: dict[str, str] = field(default_factory=dict)
    data: dict[str, CorpusAmounts] = field(default_factory=dict)


@dataclass(frozen=True)
class Parent:
    """One of the adapters that a merged one was made of."""

    name: str
    factors_sha256: str
    weight: float | None = None


@dataclass(frozen=True)
class MergedManifest:
    """`merged/cogen.json`: what the combined adapter was made of."""

    base: str = ""
    fingerprint: dict[str, str] | None = None
    factors_sha256: str = ""
    parents: list[Parent] = field(default_factory=list)


@dataclass(frozen=True)
class Artifacts:
    """All of it; None where a file is not there."""

    seed_summary: SeedSummary | None = None
    contributions: Contributions | None = None
    diagnosis: Diagnosis | None = None
    about: RunMetadata | None = None
    merged: MergedManifest | None = None


def read_beside(run: Path) -> Artifacts:
    """Read what lies in the run folder, or for what a merge writes, in its `merged/`.

    Raises:
        RunError: a file is there and malformed.
    """
    diagnosis = _first(run / "diagnosis.json", run / "merged" / "diagnosis.json")
    contributions = _first(run / "contributions.json", run / "merged" / "contributions.json")
    return Artifacts(
        seed_summary=_seed_summary(run / "seed_summary.json"),
        contributions=_read(contributions, Contributions),
        diagnosis=Diagnosis.from_json(diagnosis.read_text("utf-8"), str(diagnosis)) if diagnosis.is_file() else None,
        about=_read(run / "run_metadata.json", RunMetadata),
        merged=_read(run / "merged" / "cogen.json", MergedManifest),
    )


def _seed_summary(path: Path) -> SeedSummary | None:
    return read_seed_summary(path.read_bytes().decode("utf-8", errors="replace"), str(path)) if path.is_file() else None


def _first(*paths: Path) -> Path:
    return next((path for path in paths if path.is_file()), paths[0])


def _read(path: Path, kind: type[T]) -> T | None:
    """The file as `kind`, fields that it does not know being left aside."""
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text("utf-8"))
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise _malformed(path, f"an object of format {FORMAT}", _format_of(values))
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _malformed(path, f"{place}: {first['msg']}", repr(first["input"])) from None
    except ValueError as error:
        raise _malformed(path, "JSON in UTF-8", str(error)) from None


def _format_of(values: Any) -> str:
    return f"format {values.get('format')!r}" if isinstance(values, Mapping) else type(values).__name__


def _malformed(path: Path, expected: str, got: str) -> RunError:
    fix = "Write it anew with the command that made it, or move it away."
    return RunError(f"cannot read {path.name}", expected=expected, got=got[:200], where=str(path), fix=fix)
