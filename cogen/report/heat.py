"""The evaluation matrix as rows of coloured cells; a colour stands for the same change in every report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cogen.evaluate.matrix import BASE, Cell, Evaluation, is_alone
from cogen.report.record import RunRecord
from cogen.report.units import MINUS, decimals, percent

MAX_ROUNDS = 20
EDGES = (0.005, 0.02, 0.05, 0.10)


@dataclass(frozen=True)
class HeatCell:
    """A value, its change against the base, and how it is shown.

    Args:
        colour: `b1` to `b4` where lower than base (better), `w1` to `w4` where higher, `n` near it, or empty.
        best: whether it is the lowest of its column.
        own: whether the model is this domain's own, trained alone.
    """

    value: str
    change: str
    colour: str
    best: bool
    own: bool


@dataclass(frozen=True)
class HeatRow:
    """A model and its cells: one for each domain and, with several domains, one for their mean."""

    model: str
    cells: tuple[HeatCell, ...]


def heat_rows(evaluation: Evaluation) -> list[HeatRow]:
    """All models in order; the colour of a cell is its change against the base in the same column."""
    return [HeatRow(model, tuple(_row(evaluation, model))) for model in evaluation.models]


def scores_so_far(record: RunRecord) -> Evaluation:
    """The clients' own scores, each on its own held-out text: before the run, and after each of the last rounds."""
    first: dict[str, float | None] = {}
    for reply in record.replies:
        first.setdefault(reply.domain, reply.bits_per_byte_before)
    values = [(BASE, domain, first[domain]) for domain in record.domains if domain in first]
    last = sorted({reply.round for reply in record.replies})[-MAX_ROUNDS:]
    values += [
        (f"trained in round {reply.round}", reply.domain, reply.bits_per_byte_after)
        for reply in record.replies
        if reply.round in last
    ]
    cells = [Cell(model, domain, value, 1, 1) for model, domain, value in values if value is not None]
    return Evaluation(cells=tuple(cell for cell in cells if math.isfinite(cell.bits_per_byte)))


def colour(change_frac: float, edges: Sequence[float] = EDGES) -> str:
    """The class of a relative change against the base: its sign, and how many edges it passes."""
    strength = sum(abs(change_frac) >= edge for edge in edges)
    if strength == 0:
        return "n"
    return ("b" if change_frac < 0 else "w") + str(strength)


def legend() -> list[tuple[str, str]]:
    """Class and meaning of each colour, from much better to much worse than the base."""
    return signed_legend([f"{100 * edge:g}" for edge in EDGES], "b", "w", plus="+", unit="%")


def signed_legend(
    edges: Sequence[str], negative: str, positive: str, plus: str = "", unit: str = ""
) -> list[tuple[str, str]]:
    """Class and meaning of each colour of a value with a sign, from the lowest to the highest.

    Args:
        edges: positive limits between two colours, from low to high.
        negative, positive: first letter of the classes of negative and positive values.
    """
    spans, last = list(enumerate(pairwise(edges), start=1)), len(edges)
    below = [(f"{negative}{i}", f"{MINUS}{high} to {MINUS}{low}{unit}") for i, (low, high) in reversed(spans)]
    above = [(f"{positive}{i}", f"{plus}{low} to {plus}{high}{unit}") for i, (low, high) in spans]
    return [
        (f"{negative}{last}", f"below {MINUS}{edges[-1]}{unit}"),
        *below,
        ("n", f"within {edges[0]}{unit}"),
        *above,
        (f"{positive}{last}", f"above {plus}{edges[-1]}{unit}"),
    ]


def _row(evaluation: Evaluation, model: str) -> list[HeatCell]:
    cells = []
    for domain in evaluation.domains:
        column = {m: evaluation.bits_per_byte(m, domain) for m in evaluation.models}
        cells.append(_cell(column, model, own=is_alone(model, domain)))
    if len(evaluation.domains) > 1:
        means = {m: evaluation.mean_bits_per_byte(m) for m in evaluation.models}
        cells.append(_cell(means, model, own=False))
    return cells


def _cell(column: dict[str, float | None], model: str, *, own: bool) -> HeatCell:
    value, base = column[model], column.get(BASE)
    others = [v for v in column.values() if v is not None]
    best = len(others) > 1 and value == min(others)
    if value is None or not base or model == BASE:
        return HeatCell(decimals(value), "", "", best, own)
    # Rounded like the number that is shown, so that colour and number never disagree.
    change = round(value / base - 1, 3)
    return HeatCell(decimals(value), percent(change, 1, signed=True), colour(change), best, own)
