"""The further JSON files of a run folder: each is read if it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict

from cogen.analysis.contributions import ContributionsFile
from cogen.analysis.diagnosis import Diagnosis
from cogen.audit.record import Audit
from cogen.data.run_metadata import RunMetadata
from cogen.evaluate.seed_summary import SeedSummary
from cogen.evaluate.seed_summary_file import SeedSummaryFile
from cogen.records import Record
from cogen.runs import AUDIT, RUN_METADATA, SEED_SUMMARY

MERGED = "merged/cogen.json"
# A merge writes these two into its own folder, the commands of a run into the run folder.
DIAGNOSES = "diagnosis.json", "merged/diagnosis.json"
CONTRIBUTIONS = "contributions.json", "merged/contributions.json"
FILES = (SEED_SUMMARY, RUN_METADATA, AUDIT, MERGED, *DIAGNOSES, *CONTRIBUTIONS)


@dataclass(frozen=True)
class Parent:
    """One of the adapters that were merged."""

    name: str
    factors_sha256: str
    weight: float | None = None


class MergedManifest(Record):
    """`merged/cogen.json`: the base and the adapters that the combined adapter was made from; other fields are ignored."""

    model_config = ConfigDict(extra="ignore")
    file_name = "cogen.json"

    format: Literal[1] = 1
    base: str = ""
    fingerprint: dict[str, str] | None = None
    factors_sha256: str = ""
    parents: tuple[Parent, ...] = ()


@dataclass(frozen=True)
class Artifacts:
    """All of these files; None for one that does not exist."""

    seed_summary: SeedSummary | None = None
    contributions: ContributionsFile | None = None
    diagnosis: Diagnosis | None = None
    run_metadata: RunMetadata | None = None
    audit: Audit | None = None
    merged: MergedManifest | None = None


def read_artifacts(run: Path) -> Artifacts:
    """Read those of `FILES` that are in the run folder.

    Raises:
        RunError: a file is malformed.
    """
    seeds = SeedSummaryFile.load_if_present(run / SEED_SUMMARY)
    return Artifacts(
        seed_summary=seeds.summary() if seeds else None,
        contributions=ContributionsFile.load_if_present(_first(run, CONTRIBUTIONS)),
        diagnosis=Diagnosis.load_if_present(_first(run, DIAGNOSES)),
        run_metadata=RunMetadata.load_if_present(run / RUN_METADATA),
        audit=Audit.load_if_present(run / AUDIT),
        merged=MergedManifest.load_if_present(run / MERGED),
    )


def _first(run: Path, names: Sequence[str]) -> Path:
    """The first of the files that exists; the first name where none does."""
    return next((run / name for name in names if (run / name).is_file()), run / names[0])
