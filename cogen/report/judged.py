"""A judgement in sentences, and put in order for its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cogen.evaluate.matrix import Cell
from cogen.report.beside import Judgement, Row, Spread
from cogen.report.units import decimals


@dataclass(frozen=True)
class Judged:
    """Rows and columns of the table, in order of first appearance."""

    models: tuple[str, ...]
    domains: tuple[str, ...]
    cells: Mapping[tuple[str, str], Row]
    general: Mapping[str, Row]
    retained_percent: Mapping[str, Spread]


@dataclass(frozen=True)
class Forgotten:
    """A model on text that nobody trained on, and its change against the base; above 0 is worse."""

    model: str
    bits_per_byte: float
    change: float | None


def judged(judgement: Judgement) -> Judged:
    """The judgement as a table."""
    models = dict.fromkeys([*(row.model for row in judgement.rows), *(row.model for row in judgement.general)])
    return Judged(
        models=tuple(models),
        domains=tuple(dict.fromkeys(row.domain for row in judgement.rows)),
        cells={(row.model, row.domain): row for row in judgement.rows},
        general={row.model: row for row in judgement.general},
        retained_percent={d: Spread(_percent(g.mean), _percent(g.sd)) for d, g in judgement.retained_gain.items()},
    )


def member_lines(judgement: Judgement) -> list[str]:
    """For each member what joining gave over training alone."""
    lines = []
    for domain, member in judgement.members.items():
        if member.own.mean is None:
            continue
        line = f"{domain}: joining {_changed(member.own, 'your own held-out text')} bits per byte over training alone"
        lines.append(line + (f", {_changed(member.others, 'others’')}." if member.others.mean is not None else "."))
    return lines


def verdict(judgement: Judgement | None) -> str:
    """Whether joining was worth it, in one sentence; empty where no one trained alone."""
    own = [m.own.mean for m in (judgement.members.values() if judgement else ()) if m.own.mean is not None]
    if judgement is None or not own:
        return ""
    num_better, mean = sum(gain > 0 for gain in own), sum(own) / len(own)
    seeds = f"{len(judgement.seeds)} seeds" if len(judgement.seeds) != 1 else "one seed"
    how = "better" if mean >= 0 else "worse"
    return (
        f"Joining was better than training alone for {num_better} of {len(own)} domains on their own text, "
        f"{decimals(abs(mean))} bits per byte {how} on average ({seeds})."
    )


def forgotten(scores: Sequence[Cell]) -> list[Forgotten]:
    """Each model's score on general text and its change against the base."""
    base = next((s.bits_per_byte for s in scores if s.model == "base"), None)
    changes = [None if base is None or s.model == "base" else s.bits_per_byte - base for s in scores]
    return [Forgotten(s.model, s.bits_per_byte, c) for s, c in zip(scores, changes, strict=True)]


def _changed(gain: Spread, whose: str) -> str:
    mean = gain.mean or 0.0
    spread = "" if gain.sd is None else f" ± {decimals(gain.sd)}"
    return f"{'improved' if mean >= 0 else 'worsened'} {whose} by {decimals(abs(mean))}{spread}"


def _percent(frac: float | None) -> float | None:
    return None if frac is None else 100 * frac
