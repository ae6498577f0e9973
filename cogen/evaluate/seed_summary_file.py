"""`seed_summary.json`: a summary over seeds as a file that other programs can read.

    {"format": 1,
     "seeds": [0, 1, 2],
     "rows": [{"model": "combined", "domain": "grid", "mean": 0.744, "sd": 0.0004, "values": [0.7440, ...]}, ...],
     "retained_gain": {"grid": {"mean": 1.22, "sd": 0.01, "values": [...]}, ...},
     "general": [{"model": "combined", "mean": 1.01, "sd": 0.001, "values": [...]}, ...],
     "forgetting": {"combined": {"mean": 0.012, "sd": 0.001, "values": [...]}, ...},
     "members": {"grid": {"own": {"mean": 0.008, "sd": 0.0005, "values": [...]}, "others": {...}}, ...}}

`rows` and `general` are in bits per byte; lower is better. `general` is text that no client trained on; the list is
empty without such text. `values` has one number for each of `seeds`, or null for a seed without a score. `mean` is the
mean of the known values, or null without any. `sd` is their sample standard deviation (n - 1), or null for fewer than
two values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field

from cogen.evaluate.seed_summary import DomainSummary, SeedSummary, Spread
from cogen.records import Inconsistent, Name, Record


@dataclass(frozen=True)
class SeedFigures:
    """A spread in the file: mean and standard deviation are written for readers without this code."""

    mean: float | None
    sd: float | None
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class RowFigures:
    """Bits per byte of one model on one domain."""

    model: Name
    domain: Name
    mean: float | None
    sd: float | None
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class GeneralFigures:
    """Bits per byte of one model on general text."""

    model: Name
    mean: float | None
    sd: float | None
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class MemberFigures:
    """What joining gave one domain: on its own text and on that of the others."""

    own: SeedFigures
    others: SeedFigures


class SeedSummaryFile(Record):
    """`seed_summary.json`. Unknown fields are ignored, so that a later version can add some."""

    model_config = ConfigDict(extra="ignore")
    file_name = "seed_summary.json"
    fix = "Write it again with `cogen simulate --resume`, or move it away."

    format: Literal[1] = 1
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    rows: tuple[RowFigures, ...]
    retained_gain: Mapping[str, SeedFigures]
    general: tuple[GeneralFigures, ...]
    forgetting: Mapping[str, SeedFigures]
    members: Mapping[str, MemberFigures]

    @classmethod
    def of(cls, summary: SeedSummary) -> Self:
        """The content of the file for a summary."""
        return cls(
            seeds=summary.seeds,
            rows=tuple(RowFigures(m, d, s.mean, s.sd, s.values) for (m, d), s in summary.rows.items()),
            retained_gain={d: _figures(spread) for d, spread in summary.retained_gain.items()},
            general=tuple(GeneralFigures(m, s.mean, s.sd, s.values) for m, s in summary.general.items()),
            forgetting={m: _figures(spread) for m, spread in summary.forgetting.items()},
            members={d: MemberFigures(_figures(m.own), _figures(m.others)) for d, m in summary.members.items()},
        )

    def summary(self) -> SeedSummary:
        """The summary that the file holds."""
        return SeedSummary(
            seeds=self.seeds,
            rows={(row.model, row.domain): Spread(row.values) for row in self.rows},
            retained_gain={domain: Spread(found.values) for domain, found in self.retained_gain.items()},
            general={row.model: Spread(row.values) for row in self.general},
            forgetting={model: Spread(found.values) for model, found in self.forgetting.items()},
            members={
                domain: DomainSummary(Spread(member.own.values), Spread(member.others.values))
                for domain, member in self.members.items()
            },
        )

    def check(self) -> None:
        """Raise Inconsistent for a row named twice, or a figure that does not follow from its values."""
        for name, keys in (
            ("rows", [(r.model, r.domain) for r in self.rows]),
            ("general", [g.model for g in self.general]),
        ):
            if len(set(keys)) < len(keys):
                twice = next(key for i, key in enumerate(keys) if key in keys[:i])
                raise Inconsistent(f"{name} without duplicates", f"{twice} twice")
        for place, found in self._all_figures():
            if len(found.values) != len(self.seeds):
                raise Inconsistent(f"{place}.values: one for each seed", repr(list(found.values)))
            computed = Spread(found.values)
            for name in ("mean", "sd"):
                if not _is_same(getattr(found, name), getattr(computed, name)):
                    expected = f"{place}.{name}: {getattr(computed, name)}, computed from its values"
                    raise Inconsistent(expected, repr(getattr(found, name)))

    def _all_figures(self) -> Iterator[tuple[str, SeedFigures | RowFigures | GeneralFigures]]:
        """Each figure with its place in the file."""
        yield from ((f"rows.{i}", row) for i, row in enumerate(self.rows))
        yield from ((f"retained_gain.{d}", figures) for d, figures in self.retained_gain.items())
        yield from ((f"general.{i}", row) for i, row in enumerate(self.general))
        yield from ((f"forgetting.{m}", figures) for m, figures in self.forgetting.items())
        for domain, member in self.members.items():
            yield f"members.{domain}.own", member.own
            yield f"members.{domain}.others", member.others


def _figures(spread: Spread) -> SeedFigures:
    return SeedFigures(spread.mean, spread.sd, spread.values)


def _is_same(written: float | None, computed: float | None) -> bool:
    if written is None or computed is None:
        return written is computed
    return math.isclose(written, computed, rel_tol=1e-6, abs_tol=1e-9)
