"""What several seeds, and text that no client holds, say: in a sentence, and put in order for a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cogen.evaluate.matrix import BASE, Cell, Evaluation
from cogen.evaluate.seed_summary import SeedSummary
from cogen.report.units import decimals


@dataclass(frozen=True)
class Forgotten:
    """A model on text that no client holds, and its change against the base; above 0 is worse."""

    model: str
    text: str
    bits_per_byte: float
    change: float | None


def verdict(seed_summary: SeedSummary | None) -> str:
    """Whether joining was worth it, in one sentence; empty where no one trained alone."""
    own = [m.own.mean for m in (seed_summary.members.values() if seed_summary else ()) if m.own.mean is not None]
    if seed_summary is None or not own:
        return ""
    num_better, mean = sum(gain > 0 for gain in own), sum(own) / len(own)
    seeds = f"{len(seed_summary.seeds)} seeds" if len(seed_summary.seeds) != 1 else "one seed"
    how = "better" if mean >= 0 else "worse"
    return (
        f"Joining was better than training alone for {num_better} of {len(own)} domains on their own text, "
        f"{decimals(abs(mean))} bits per byte {how} on average ({seeds})."
    )


def forgotten(evaluation: Evaluation, held: Iterable[str]) -> list[Forgotten]:
    """Each model on general text, and on the columns that no client holds.

    Args:
        held: the domains of the clients; without any, every column counts as held.
    """
    domains = set(held) or set(evaluation.domains)
    cells = [*(c for c in evaluation.cells if c.domain not in domains), *evaluation.general]
    base = {c.domain: c.bits_per_byte for c in cells if c.model == BASE}
    return [Forgotten(c.model, c.domain, c.bits_per_byte, _change(c, base.get(c.domain))) for c in cells]


def _change(cell: Cell, base: float | None) -> float | None:
    return None if base is None or cell.model == BASE else cell.bits_per_byte - base
