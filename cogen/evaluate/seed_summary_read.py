"""`seed_summary.json` read back, and checked: every figure follows from its values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cogen.errors import RunError
from cogen.evaluate.seed_summary import FORMAT, DomainSummary, SeedSummary, Spread

SIDES = ("own", "others")


def read_seed_summary(text: str, where: str) -> SeedSummary:
    """Read the text of a `seed_summary.json`; `where` names it in errors. Fields that are not known are left aside.

    Raises:
        RunError: not JSON, another format, a field missing or of another kind, a row named twice, or a mean or
            standard deviation that is not that of its values.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise _malformed("JSON in UTF-8", str(error), where) from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        got = f"format {found.get('format')!r}" if isinstance(found, dict) else type(found).__name__
        raise _malformed(f"an object of format {FORMAT}", got, where)
    seeds = found.get("seeds")
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int for seed in seeds):
        raise _malformed("seeds: a list of whole numbers", repr(seeds), where)
    read = _Reader(len(seeds), where)
    members = read.table(found, "members")
    return SeedSummary(
        seeds=tuple(seeds),
        rows=read.rows(found, "rows", "model", "domain"),
        retained_gain={d: read.spread(v, f"retained_gain.{d}") for d, v in read.table(found, "retained_gain").items()},
        general={model: spread for (model,), spread in read.rows(found, "general", "model").items()},
        forgetting={m: read.spread(v, f"forgetting.{m}") for m, v in read.table(found, "forgetting").items()},
        members={
            d: DomainSummary(
                *(read.spread(read.field(v, side, f"members.{d}"), f"members.{d}.{side}") for side in SIDES)
            )
            for d, v in members.items()
        },
    )


@dataclass(frozen=True)
class _Reader:
    num_seeds: int
    where: str

    def field(self, values: Any, name: str, place: str) -> Any:
        if not isinstance(values, Mapping) or name not in values:
            raise _malformed(f"{place} with the field {name}", repr(values), self.where)
        return values[name]

    def table(self, found: Mapping[str, Any], name: str) -> dict[str, Any]:
        values = self.field(found, name, "an object")
        if not isinstance(values, dict):
            raise _malformed(f"{name}: an object", type(values).__name__, self.where)
        return values

    def rows(self, found: Mapping[str, Any], name: str, *keys: str) -> dict[Any, Spread]:
        """By their names: of several keys, or of one, as tuples."""
        listed = self.field(found, name, "an object")
        if not isinstance(listed, list):
            raise _malformed(f"{name}: a list", type(listed).__name__, self.where)
        rows: dict[Any, Spread] = {}
        for i, row in enumerate(listed):
            names = tuple(self.field(row, key, f"{name}.{i}") for key in keys)
            if not all(isinstance(one, str) and one for one in names) or names in rows:
                raise _malformed(f"{name}.{i}: names that no other row has", repr(names), self.where)
            rows[names] = self.spread(row, f"{name}.{i}")
        return rows

    def spread(self, found: Any, place: str) -> Spread:
        values = self.field(found, "values", place)
        if not isinstance(values, list) or len(values) != self.num_seeds or not all(map(_is_figure, values)):
            raise _malformed(f"{place}.values: a number or null for each seed", repr(values), self.where)
        spread = Spread(tuple(None if value is None else float(value) for value in values))
        for name, meant in (("mean", spread.mean), ("sd", spread.sd)):
            said = self.field(found, name, place)
            if not _is_figure(said) or not _is_same(said, meant):
                raise _malformed(f"{place}.{name}: {meant}, that of its values", repr(said), self.where)
        return spread


def _is_figure(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(value))


def _is_same(said: float | None, meant: float | None) -> bool:
    if said is None or meant is None:
        return said is meant
    return math.isclose(said, meant, rel_tol=1e-6, abs_tol=1e-9)


def _malformed(expected: str, got: str, where: str) -> RunError:
    fix = "Write it anew with `cogen simulate --resume`, or move it away."
    return RunError("cannot read seed_summary.json", expected=expected, got=got[:200], where=where, fix=fix)
