"""The further JSON files of a run folder: each is read if it is there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
SEED_SUMMARY, RUN_METADATA, MERGED = "seed_summary.json", "run_metadata.json", "merged/cogen.json"
# A merge writes these two into its own folder, the commands of a run into the run folder.
DIAGNOSES = "diagnosis.json", "merged/diagnosis.json"
CONTRIBUTIONS = "contributions.json", "merged/contributions.json"
FILES = (SEED_SUMMARY, RUN_METADATA, MERGED, *DIAGNOSES, *CONTRIBUTIONS)


@dataclass(frozen=True)
class MergeShare:
    """An adapter's Shapley value for a domain, with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Contribution:
    """By how much one adapter lowers one domain's bits per byte; above 0 is better."""

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
    """The size of one domain's corpus, after cleaning."""

    num_documents: int
    num_tokens: int
    num_heldout_documents: int
    num_heldout_tokens: int
    num_dropped_documents: int = 0
    num_files_skipped: int = 0
    sha256: str = ""


@dataclass(frozen=True)
class RunMetadata:
    """`run_metadata.json` of a simulation: versions of the software, and the size of every corpus."""

    versions: dict[str, str] = field(default_factory=dict)
    data: dict[str, CorpusAmounts] = field(default_factory=dict)


@dataclass(frozen=True)
class Parent:
    """One of the adapters that were merged."""

    name: str
    factors_sha256: str
    weight: float | None = None


@dataclass(frozen=True)
class MergedManifest:
    """`merged/cogen.json`: the base and the adapters that the combined adapter was made from."""

    base: str = ""
    fingerprint: dict[str, str] | None = None
    factors_sha256: str = ""
    parents: list[Parent] = field(default_factory=list)


@dataclass(frozen=True)
class Artifacts:
    """All of these files; None for one that does not exist."""

    seed_summary: SeedSummary | None = None
    contributions: Contributions | None = None
    diagnosis: Diagnosis | None = None
    run_metadata: RunMetadata | None = None
    merged: MergedManifest | None = None


def read_artifacts(run: Path) -> Artifacts:
    """Read those of `FILES` that are in the run folder.

    Raises:
        RunError: a file is malformed.
    """
    diagnosis = _first(run, DIAGNOSES)
    return Artifacts(
        seed_summary=_seed_summary(run / SEED_SUMMARY),
        contributions=_read(_first(run, CONTRIBUTIONS), Contributions),
        diagnosis=Diagnosis.from_json(_text(diagnosis), str(diagnosis)) if diagnosis.is_file() else None,
        run_metadata=_read(run / RUN_METADATA, RunMetadata),
        merged=_read(run / MERGED, MergedManifest),
    )


def _seed_summary(path: Path) -> SeedSummary | None:
    return read_seed_summary(_text(path), str(path)) if path.is_file() else None


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="replace")


def _first(run: Path, names: Sequence[str]) -> Path:
    """The first of the files that exists; the first name where none does."""
    return next((run / name for name in names if (run / name).is_file()), run / names[0])


def _read(path: Path, kind: type[T]) -> T | None:
    """The file as `kind`; unknown fields are ignored. None without a file."""
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
    fix = "Write it again with the command that made it, or move it away."
    return RunError(f"cannot read {path.name}", expected=expected, got=got[:200], where=str(path), fix=fix)
