"""A diagnosis of adapters -> one HTML page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from cogen.analysis.diagnosis import Diagnosis, Pair
from cogen.analysis.diagnosis_text import above_chance, advice
from cogen.report import units
from cogen.report.charts import NARROW, WIDE, Chart
from cogen.report.heat import HeatCell, HeatRow, colour, signed_legend
from cogen.report.html import template
from cogen.report.svg import Axis, Series, line_chart

EDGES = (0.05, 0.15, 0.35, 0.65)
BLANK = HeatCell("", "", "", best=False, own=False)


def diagnosis_page(diagnosis: Diagnosis) -> str:
    """The page as HTML: heat maps of pairs, energy by rank, families, findings; every text is escaped."""
    troubled = dict.fromkeys(f.adapter for f in diagnosis.findings if f.level == "problem")
    return template("diagnosis.html.j2").render(
        title=f"Diagnosis of {len(diagnosis.adapters)} adapters · CO-GEN",
        d=diagnosis,
        advice=advice(diagnosis),
        warning=f"Problems with {', '.join(troubled)}: see the findings." if troubled else "",
        overview=_overview(diagnosis),
        maps=_maps(diagnosis),
        overlap_legend=_overlap_legend(),
        cosine_legend=_cosine_legend(),
        energy_chart=energy_chart(diagnosis),
    )


def energy_chart(diagnosis: Diagnosis) -> Chart | None:
    """Energy kept of the mean update by rank, in powers of two; None where the mean is zero."""
    if not diagnosis.energy_by_rank:
        return None
    points = tuple((math.log2(e.rank), 100 * e.energy_frac) for e in diagnosis.energy_by_rank)
    series = [Series("energy kept", points, 0)]
    axis = Axis("rank kept in every module", lambda value: f"{2**value:g}", smallest_step=1.0)
    title = "Energy of the mean by rank"
    wide = line_chart(series, axis, "energy kept [%]", WIDE, title, labels=False)
    narrow = line_chart(series, axis, "energy kept [%]", NARROW, title, labels=False)
    ranks = diagnosis.rank_for_90, diagnosis.rank_for_99
    note = f"Rank {ranks[0]} in every module keeps 90% of the energy, rank {ranks[1]} keeps 99%."
    return Chart(wide, narrow, notes=(note,))


def heat_map(diagnosis: Diagnosis, cell: Callable[[Pair], HeatCell]) -> list[HeatRow]:
    """Adapters by adapters; the diagonal is blank, and the map is symmetric."""
    names = [a.name for a in diagnosis.adapters]
    known = {frozenset((p.first, p.second)): cell(p) for p in diagnosis.pairs}
    return [HeatRow(row, tuple(known.get(frozenset((row, column)), BLANK) for column in names)) for row in names]


def overlap_cell(overlap: float | None, chance: float | None) -> HeatCell:
    """The overlap, and below it that of random subspaces; the colour is how far the first exceeds the second."""
    excess = above_chance(overlap, chance)
    kind = "" if excess is None else colour(-round(max(excess, 0.0), 3), EDGES)
    return HeatCell(units.percent(overlap, 1), f"chance {units.percent(chance, 1)}", kind, best=False, own=False)


def cosine_cell(pair: Pair) -> HeatCell:
    """The cosine, and below it the sign conflict; blue for updates that agree, orange for opposed ones."""
    kind = "" if pair.cosine is None else colour(-round(pair.cosine, 2), EDGES)
    conflict = f"conflict {units.percent(pair.sign_conflict_frac)}"
    return HeatCell(units.decimals(pair.cosine, 2, signed=True), conflict, kind, best=False, own=False)


Map = tuple[str, str, list[HeatRow], str]


def _maps(diagnosis: Diagnosis) -> Sequence[Map]:
    """Heading, explanation, rows, and which legend, of each heat map."""
    return (
        (
            "Output directions",
            "The part of one adapter's output directions (columns of B) that lies in the other's, and the part expected "
            "by chance.",
            heat_map(diagnosis, lambda p: overlap_cell(p.output_overlap, p.output_chance)),
            "overlap",
        ),
        (
            "Input directions",
            "The same for the input directions (rows of A).",
            heat_map(diagnosis, lambda p: overlap_cell(p.input_overlap, p.input_chance)),
            "overlap",
        ),
        (
            "Agreement",
            "The cosine of two updates, and the sign conflict: of the entries that both updates use in their shared space, "
            "the part with opposite signs. Unrelated updates have 50%.",
            heat_map(diagnosis, cosine_cell),
            "cosine",
        ),
    )


def _overlap_legend() -> list[tuple[str, str]]:
    edges = [f"{100 * edge:g}" for edge in EDGES]
    spans = [(f"b{i}", f"{low} to {high}%") for i, (low, high) in enumerate(pairwise(edges), start=1)]
    return [("n", f"below {edges[0]}%"), *spans, (f"b{len(edges)}", f"above {edges[-1]}%")]


def _cosine_legend() -> list[tuple[str, str]]:
    return signed_legend([f"{edge:g}" for edge in EDGES], "w", "b")


def _overview(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """The few numbers at the top of the page."""
    d = diagnosis
    return [
        ("adapters", str(len(d.adapters))),
        ("modules", units.count(d.num_modules)),
        ("over-shared directions", f"{units.count(d.num_shared_directions)} of {units.count(d.num_directions)}"),
        ("energy in them", units.percent(d.shared_energy_frac, 1)),
        ("rank for 90% / 99%", f"{units.count(d.rank_for_90)} / {units.count(d.rank_for_99)}"),
        ("error of averaging A and B apart", units.percent(d.factor_average_error, 1)),
    ]
