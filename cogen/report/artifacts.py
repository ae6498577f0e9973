"""What may lie beside a run's events and its matrix: each file is read if it is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict

from cogen.analysis.contributions import ContributionsFile
from cogen.analysis.diagnosis import Diagnosis
from cogen.data.run_metadata import RunMetadata
from cogen.evaluate.seed_summary import SeedSummary
from cogen.evaluate.seed_summary_file import SeedSummaryFile
from cogen.records import Record


@dataclass(frozen=True)
class Parent:
    """One of the adapters that a merged one was made of."""

    name: str
    factors_sha256: str
    weight: float | None = None


class MergedManifest(Record):
    """`merged/cogen.json`: what the combined adapter was made of; other fields of the file are ignored."""

    model_config = ConfigDict(extra="ignore")
    file_name = "cogen.json"

    format: Literal[1] = 1
    base: str = ""
    fingerprint: dict[str, str] | None = None
    factors_sha256: str = ""
    parents: tuple[Parent, ...] = ()


@dataclass(frozen=True)
class Artifacts:
    """All of it; None where a file is not there."""

    seed_summary: SeedSummary | None = None
    contributions: ContributionsFile | None = None
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
    seeds = SeedSummaryFile.load_if_present(run / "seed_summary.json")
    return Artifacts(
        seed_summary=seeds.summary() if seeds else None,
        contributions=ContributionsFile.load_if_present(contributions),
        diagnosis=Diagnosis.load_if_present(diagnosis),
        about=RunMetadata.load_if_present(run / "run_metadata.json"),
        merged=MergedManifest.load_if_present(run / "merged" / "cogen.json"),
    )


def _first(*paths: Path) -> Path:
    return next((path for path in paths if path.is_file()), paths[0])
