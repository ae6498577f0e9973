"""The result of a diagnosis: numbers by pair, by family and overall, and findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from cogen.records import Count, Inconsistent, Record

Frac = Annotated[float, Field(ge=0, le=1)]
Cosine = Annotated[float, Field(ge=-1, le=1)]
NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Finding:
    """A remark on one adapter, or on all of them.

    Args:
        adapter: its name; empty for a remark on all adapters.
        kind: refused, fingerprint, modules, shape, unreadable, norm, module norm, spectrum or cohort.
        level: "problem" (a merge would refuse it or go wrong), "hint" (look at it) or "note".
        module: the module where it shows most; empty if it is about no single module.
        text: one or two sentences.
    """

    adapter: str
    kind: str
    level: Literal["problem", "hint", "note"]
    module: str
    text: str


@dataclass(frozen=True)
class AdapterSummary:
    """One adapter: its highest rank, the number of its modules, the norm of its whole update."""

    name: str
    rank: Count
    num_modules: Count
    norm: NotNegative


@dataclass(frozen=True)
class Pair:
    """Two adapters, over all modules; None if they have no module in common. See `diagnose`."""

    first: str
    second: str
    output_overlap: Frac | None
    output_chance: Frac | None
    input_overlap: Frac | None
    input_chance: Frac | None
    cosine: Cosine | None
    meeting_frac: Frac | None
    sign_conflict_frac: Frac | None
    norm_ratio: NotNegative | None


@dataclass(frozen=True)
class Family:
    """Modules of one kind (such as `q_proj` of all layers), over all pairs."""

    name: str
    num_modules: Count
    energy_frac: Frac
    output_overlap: Frac | None
    output_chance: Frac | None
    input_overlap: Frac | None
    input_chance: Frac | None
    cosine: Cosine | None
    meeting_frac: Frac | None
    sign_conflict_frac: Frac | None
    num_directions: Count
    num_shared_directions: Count


@dataclass(frozen=True)
class EnergyAtRank:
    """The part of the energy of the equal-weight mean that remains at `rank`."""

    rank: Count
    energy_frac: Frac


class Diagnosis(Record):
    """`diagnosis.json`; the fields are explained at `cogen.analysis.diagnose.diagnose`."""

    file_name = "diagnosis.json"
    fix = "Write it again with `cogen diagnose`."

    format: Literal[1] = 1
    adapters: tuple[AdapterSummary, ...]
    num_modules: Count
    pairs: tuple[Pair, ...]
    families: tuple[Family, ...]
    num_directions: Count
    num_shared_directions: Count
    shared_energy_frac: Frac | None
    energy_by_rank: tuple[EnergyAtRank, ...]
    rank_for_90: Count | None
    rank_for_99: Count | None
    factor_average_error: NotNegative | None
    factor_average_reason: str
    findings: tuple[Finding, ...]

    def pair(self, first: str, second: str) -> Pair | None:
        """The numbers of two adapters, in either order."""
        return next((p for p in self.pairs if {p.first, p.second} == {first, second}), None)

    def check(self) -> None:
        """Raise Inconsistent when an adapter or a pair is there twice, or a pair names an unknown adapter."""
        _refuse_duplicates([a.name for a in self.adapters])
        _refuse_duplicates([" and ".join(sorted((p.first, p.second))) for p in self.pairs])
        if unknown := {n for p in self.pairs for n in (p.first, p.second)} - {a.name for a in self.adapters}:
            raise Inconsistent("pairs of the adapters in the file", repr(min(unknown)))


def _refuse_duplicates(names: Sequence[str]) -> None:
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise Inconsistent("each adapter and each pair once", f"{doubled[0]} twice")
