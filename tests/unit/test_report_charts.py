"""The parts of a report that need no run folder: sentences, heat map and charts, by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files

import pytest

from cogen.evaluate.matrix import Cell, Evaluation
from cogen.report import units
from cogen.report.charts import gain_chart, loss_chart, round_chart
from cogen.report.events import Outcome, ReplyEvent, RunStarted
from cogen.report.headline import forgetting, headline
from cogen.report.heat import colour, heat_rows, legend
from cogen.report.record import RunRecord
from cogen.report.svg import Axis, Series, bar_chart, line_chart, shorten, spread, text_width, ticks
from cogen.report.training import MAX_POINTS, Curve

SCORES = {
    "base": (1.0, 1.2),
    "expert:clinical": (0.8, 1.3),
    "expert:grid": (1.1, 1.0),
    "combined": (0.85, 1.01),
}
EMPTY = RunRecord("demo")


def matrix(scores: Mapping[str, tuple[float, float]]) -> Evaluation:
    rows = scores.items()
    cells = [Cell(m, d, v, 4, 1) for m, values in rows for d, v in zip(("clinical", "grid"), values, strict=True)]
    return Evaluation(cells=tuple(cells))


def reply(round_: int, before: float | None, after: float | None) -> ReplyEvent:
    return ReplyEvent(round_, "grid", 8, 5000, 61.0, 1, 1, before, after)


def outcomes(*replies: ReplyEvent) -> dict[tuple[int, str], Outcome]:
    return {(one.round, one.domain): one for one in replies}


# --- sentences


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"base": (1.0, 1.0), "combined": (0.9, 1.1)}, "The combined model reads 1 of 2 domains better than the base."),
        (
            {"base": (1.0, 1.0), "expert:clinical": (0.8, 1.0), "combined": (1.1, 1.0)},
            (
                "The combined model reads 0 of 2 domains better than the base; "
                "where the domains gained alone, it lost (−50% retained on average)."
            ),
        ),
        (
            {"base": (1.0, 1.0), "mine": (0.9, 0.9)},
            "2 models were scored on 2 domains; the lowest mean is 0.9000 bits per byte, by mine.",
        ),
    ],
)
def test_headlines_of_other_results(scores: dict[str, tuple[float, float]], expected: str) -> None:
    assert headline(replace(EMPTY, evaluation=matrix(scores))) == expected


def test_text_that_no_client_holds_is_told_apart() -> None:
    """Two domains of the run, and `general`, which reads 0.05 worse."""
    cells = *matrix(SCORES).cells, Cell("base", "general", 0.9, 4, 1), Cell("combined", "general", 0.95, 4, 1)
    started = RunStarted("demo", "tiny", ["clinical", "grid"], 1)
    record = replace(EMPTY, started=started, evaluation=Evaluation(cells=cells))
    assert headline(record).startswith("The combined model reads 2 of 2 domains")
    assert "+0.0500 bits per byte on general (lower is better)" in forgetting(record)
    assert forgetting(replace(record, evaluation=matrix(SCORES))) == ""
    general = Evaluation(cells=matrix(SCORES).cells, general=cells[-2:])
    assert forgetting(replace(record, evaluation=general)) == forgetting(record)


# --- the heat map


def test_heat_cells_by_hand() -> None:
    rows = {row.model: row.cells for row in heat_rows(matrix(SCORES))}
    clinical, grid, mean = rows["expert:clinical"]
    assert (clinical.value, clinical.change, clinical.colour, clinical.best, clinical.own) == (
        "0.8000",
        "−20.0%",
        "b4",
        True,
        True,
    )
    assert (grid.change, grid.colour, grid.best, grid.own) == ("+8.3%", "w3", False, False)
    # 2.1 / 2.2 - 1
    assert (mean.value, mean.change, mean.colour) == ("1.0500", "−4.5%", "b2")
    assert {cell.colour for cell in rows["base"]} == {""}


def test_a_domain_trained_alone_as_a_control_is_its_own_too() -> None:
    """Framed, in the chart and in the sentence; red: `expert:` alone taken for a domain's own."""
    found = matrix({m.replace("expert:", "local:"): values for m, values in SCORES.items()})
    rows = {row.model: [cell.own for cell in row.cells] for row in heat_rows(found)}
    assert rows["local:clinical"] == [True, False, False]
    assert sum(sum(owned) for owned in rows.values()) == 2
    assert gain_chart(found) is not None
    assert headline(replace(EMPTY, evaluation=found)) == headline(replace(EMPTY, evaluation=matrix(SCORES)))


def test_colours_step_at_their_edges() -> None:
    changes = [-0.2, -0.1, -0.05, -0.02, -0.005, -0.0049, 0.0, 0.0049, 0.005, 0.02, 0.05, 0.1]
    assert [colour(c) for c in changes] == ["b4", "b4", "b3", "b2", "b1", "n", "n", "n", "w1", "w2", "w3", "w4"]
    assert [kind for kind, _ in legend()] == ["b4", "b3", "b2", "b1", "n", "w1", "w2", "w3", "w4"]
    assert dict(legend())["b3"] == "−10 to −5%"


def luminance(colour_hex: str) -> float:
    channels = [int(colour_hex[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_on_every_colour_can_be_read(scheme: int) -> None:
    """WCAG AA: 4.5 to 1 for ink on each cell, and for soft text and line labels on the page."""
    template = files("cogen.report").joinpath("templates", "style.css.j2").read_text("utf-8")
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", template.split(":root {")[scheme + 1].split("}")[0]))
    pairs = [("ink", kind) for kind, _ in legend()] + [("soft", "page")] + [(f"c{i}", "page") for i in range(8)]
    for front, back in pairs:
        dark, light = sorted(luminance(colours[name]) for name in (front, back))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (front, back)


# --- the charts


def test_bars_are_as_long_as_their_values() -> None:
    svg = str(bar_chart([("a", 0.5, "better"), ("b", -0.25, "worse"), ("c", None, "better")], 600, "gain"))
    bars = re.findall(r'<rect class="bar (\w+)" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', svg)
    zero, one = (float(x) for x in re.findall(r'<path class="axis" d="M([\d.]+) ', svg))
    (kind_a, x_a, width_a), (kind_b, x_b, width_b) = bars
    assert (kind_a, kind_b) == ("better", "worse")
    assert float(width_a) == pytest.approx(0.5 * (one - zero), abs=0.1)
    assert float(width_b) == pytest.approx(0.25 * (one - zero), abs=0.1)
    assert float(x_a) == zero
    assert float(x_b) + float(width_b) == pytest.approx(zero, abs=0.1)
    assert re.findall(r'class="value">([^<]+)<', svg) == ["50%", "−25%", "–"]


def test_a_bar_off_the_scale_is_cut_but_its_value_stays() -> None:
    svg = str(bar_chart([("a", 9.0, "better")], 600, "gain"))
    zero, one = (float(x) for x in re.findall(r'<path class="axis" d="M([\d.]+) ', svg))
    assert float(re.findall(r'<rect .*?width="([\d.]+)"', svg)[0]) == pytest.approx(2 * (one - zero), abs=0.2)
    assert ">900%<" in svg


def test_a_line_goes_through_its_points() -> None:
    """Axes 0..10 and 0..4 in the plot's box, which the axis line and the lowest grid line give."""
    series = [Series("one", ((0.0, 0.0), (5.0, 4.0), (10.0, 1.0)), 0)]
    svg = str(line_chart(series, Axis("x", units.short_count), "y", 400, "title", labels=False))
    left, bottom, right = map(float, re.findall(r'<path class="axis" d="M([\d.]+) ([\d.]+)H([\d.]+)"', svg)[0])
    top = min(float(y) for y in re.findall(r'<path class="grid" d="M[\d.]+ ([\d.]+)H', svg))
    drawn = [float(n) for n in re.findall(r"[\d.]+", re.findall(r'class="line c0" d="([^"]+)"', svg)[0])]
    middle = (left + right) / 2
    assert drawn == pytest.approx([left, bottom, middle, top, right, bottom - (bottom - top) / 4], abs=0.11)
    assert f'cx="{right:.1f}"' in svg


def test_a_value_that_is_not_finite_breaks_the_line() -> None:
    points = ((0.0, 1.0), (1.0, 2.0), (2.0, math.nan), (3.0, math.inf), (4.0, 1.0), (5.0, 2.0))
    svg = str(line_chart([Series("one", points, 9)], Axis("x", units.short_count), "y", 400, "t", labels=True))
    path = re.findall(r'class="line c1 dashed" d="([^"]+)"', svg)[0]
    assert re.sub(r"[\d. ]+", "", path) == "MLML"
    assert "nan" not in svg
    assert line_chart([Series("none", ((0.0, math.nan),), 0)], Axis("x", str), "y", 400, "t", labels=True) == ""


def test_a_flat_line_and_a_single_point_can_be_drawn() -> None:
    svg = str(line_chart([Series("one", ((0.0, 0.0),), 0)], Axis("x", units.short_count), "y", 400, "t", labels=True))
    assert "<circle" in svg
    assert "nan" not in svg


def test_ticks_are_round_and_enclose() -> None:
    assert ticks(0.0, 0.97, 5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0.0, 3.0, 8, smallest_step=1.0) == [0.0, 1.0, 2.0, 3.0]
    flat = ticks(2.0, 2.0, 5)
    assert flat[0] < 2.0 < flat[-1]


def test_labels_are_pushed_apart_in_order_and_stay_inside() -> None:
    placed = spread([100.0, 98.0, 40.0, 99.0], gap=10.0, top=0.0, bottom=105.0)
    assert placed == [105.0, 85.0, 40.0, 95.0]
    assert spread([50.0, 10.0], gap=10.0, top=0.0, bottom=100.0) == [50.0, 10.0]


def test_long_names_are_cut_to_their_room() -> None:
    assert shorten("grid", 100) == "grid"
    cut = shorten("construction engineering", 80)
    assert cut.endswith("…")
    assert text_width(cut) <= 80


def test_a_loss_that_is_not_finite_is_a_gap_and_points_are_means() -> None:
    curve = Curve()
    for i in range(2 * MAX_POINTS):
        curve.add(i + 1, math.nan if i == 4 else 2.0)
    chart = loss_chart(replace(EMPTY, started=RunStarted("demo", "tiny", ["grid"], 1), curves={"grid": curve}))
    assert chart is not None
    assert chart.notes == (
        f"A point is the mean of up to {curve.num_steps_per_point} logged steps.",
        "A gap in a line is where the loss was not a finite number.",
    )
    assert "nan" not in chart.wide and "nan" not in chart.narrow


def test_round_chart_runs_from_before_to_after_with_a_gap_where_dropped() -> None:
    replies = reply(1, 1.0, 0.9), reply(2, 0.95, 0.85), reply(4, 0.8, 0.7)
    chart = round_chart(replace(EMPTY, outcomes=outcomes(*replies), rounds=dict.fromkeys([1, 2, 3, 4])))
    assert chart is not None
    points = chart.legend[0].points
    assert points[:4] == ((0.0, 1.0), (1.0, 0.9), (1.0, 0.95), (2.0, 0.85))
    assert math.isnan(points[4][1])
    assert points[5:] == ((3.0, 0.8), (4.0, 0.7))
    assert any("gap" in note for note in chart.notes)


def test_there_is_no_round_chart_for_one_round_or_without_scores() -> None:
    assert round_chart(replace(EMPTY, outcomes=outcomes(reply(1, 1.0, 0.9)), rounds={1: None})) is None
    unscored = reply(1, None, None), reply(2, None, None)
    assert round_chart(replace(EMPTY, outcomes=outcomes(*unscored), rounds={1: None, 2: None})) is None


def test_gain_chart_says_why_a_bar_is_missing() -> None:
    values = [("base", "a", 1.0), ("expert:a", "a", 1.0), ("combined", "a", 0.9)]
    values += [("base", "b", 1.0), ("expert:b", "a", 0.8)]
    chart = gain_chart(Evaluation(cells=tuple(Cell(*v, 4, 1) for v in values)))
    assert chart is not None
    assert chart.notes == (
        "a: no value, since training it alone gained nothing over the base.",
        "b: no value, since a score is missing.",
    )
