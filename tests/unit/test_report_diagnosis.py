"""The page of a diagnosis, and the command's work around it.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cogen.adapter import Adapter, Factors
from cogen.analysis.diagnosis import AdapterSummary, Diagnosis, EnergyAtRank, Family, Finding, Pair
from cogen.cli.diagnose import run_diagnose
from cogen.errors import MergeError
from cogen.report.diagnosis import cosine_cell, diagnosis_page, energy_chart, heat_map, overlap_cell

PAIRS = (
    Pair("clinical", "grid", 0.163, 0.03, 0.082, 0.03, 0.051, 0.2, 0.373, 1.5),
    Pair("clinical", "<b>odd</b>", 0.31, 0.03, 0.7, 0.03, -0.4, 0.8, 0.75, 2.5),
    Pair("grid", "<b>odd</b>", None, None, None, None, None, None, None, None),
)
SAMPLE = Diagnosis(
    adapters=tuple(AdapterSummary(name, 8, 1234, 3.0) for name in ("clinical", "grid", "<b>odd</b>")),
    num_modules=1234,
    pairs=PAIRS,
    families=(Family("q_proj", 2, 0.61, 0.17, 0.03, 0.08, 0.03, 0.05, 0.2, 0.4, 300, 7),),
    num_directions=3000,
    num_shared_directions=17,
    shared_energy_frac=0.071,
    energy_by_rank=(EnergyAtRank(1, 0.4), EnergyAtRank(2, 0.7), EnergyAtRank(4, 0.95), EnergyAtRank(6, 1.0)),
    rank_for_90=3,
    rank_for_99=5,
    factor_average_error=None,
    factor_average_reason="the ranks differ: 4 and 8 in q_proj",
    findings=(Finding("grid", "norm", "hint", "", "Its norm is <outsize>."),),
)


def test_the_page_says_what_the_diagnosis_says() -> None:
    """Red: the heat map of inputs shows outputs."""
    page = diagnosis_page(SAMPLE)
    for text in (
        "16.3%",
        "8.2%",
        "+0.05",
        "conflict 37%",
        "−0.40",
        "17 of 3,000",
        "7.1%",
        "61.0%",
        "7 of 300",
        "1,234",
    ):
        assert text in page, text
    assert "the ranks differ: 4 and 8 in q_proj." in page
    assert "Rank 3 in every module keeps 90% of the energy, rank 5 keeps 99%." in page
    maps = [text.split("</table>")[0] for text in page.split('<table class="heat">')[1:]]
    assert [[number in m for number in ("16.3%", "8.2%", "+0.05")] for m in maps] == torch.eye(3).bool().tolist()
    assert "First see to the norm of grid" in page
    assert 'role="alert"' not in page


def test_problems_stand_at_the_top() -> None:
    found = Finding("grid", "fingerprint", "problem", "", "Another base.")
    page = diagnosis_page(SAMPLE.model_copy(update={"findings": (found,)}))
    assert "Problems with grid: see the findings." in page
    assert '<p class="intro">None.</p>' in diagnosis_page(SAMPLE.model_copy(update={"findings": ()}))


def test_the_page_needs_nothing_else_and_escapes_names() -> None:
    """Red: autoescape is off."""
    page = diagnosis_page(SAMPLE)
    assert "<b>odd" not in page and "&lt;b&gt;odd" in page and "&lt;outsize&gt;" in page
    assert not re.search(r"<(script|link|img|iframe)|https?://|url\(|@import", page)
    assert "prefers-color-scheme: dark" in page and "@media print" in page
    assert page.count("<html") == page.count("</main>") == page.count("<style>") == 1
    assert diagnosis_page(SAMPLE) == page


def test_a_heat_map_is_symmetric_with_a_blank_diagonal() -> None:
    """Red: the lower half is left blank."""
    rows = heat_map(SAMPLE, lambda p: overlap_cell(p.input_overlap, p.input_chance))
    values = [[cell.value for cell in row.cells] for row in rows]
    assert values == [["", "8.2%", "70.0%"], ["8.2%", "", "–"], ["70.0%", "–", ""]]
    assert rows[2].cells[1].colour == ""


@pytest.mark.parametrize(
    ("overlap", "kind"), [(0.2, "n"), (0.1, "n"), (0.239, "n"), (0.24, "b1"), (0.32, "b2"), (0.48, "b3"), (0.72, "b4")]
)
def test_colours_of_overlap_step_above_chance(overlap: float, kind: str) -> None:
    """At a chance of 20%, 5% of what is possible above it is 24%. Red: chance is not taken out."""
    assert overlap_cell(overlap, 0.2).colour == kind


@pytest.mark.parametrize(("cosine", "kind"), [(0.04, "n"), (-0.05, "w1"), (0.15, "b2"), (-0.35, "w3"), (0.7, "b4")])
def test_colours_of_the_cosine_have_a_sign(cosine: float, kind: str) -> None:
    assert cosine_cell(replace(PAIRS[0], cosine=cosine)).colour == kind


def test_energy_is_drawn_by_powers_of_two() -> None:
    """1, 2, 4, 6 lie at 0, 1, 2, 2.585 of an axis that ends at 8. Red: a linear axis."""
    chart = energy_chart(SAMPLE)
    assert chart is not None
    drawn = re.findall(r'class="line c0" d="([^"]+)"', str(chart.wide))[0]
    xs = [float(x) for x, _ in re.findall(r"[ML]([\d.]+) ([\d.]+)", drawn)]
    assert (xs[2] - xs[0]) / (xs[1] - xs[0]) == pytest.approx(2.0, abs=0.01)
    assert (xs[3] - xs[0]) / (xs[1] - xs[0]) == pytest.approx(2.585, abs=0.01)
    assert ">8<" in chart.wide and ">0.7" not in chart.wide
    assert energy_chart(SAMPLE.model_copy(update={"energy_by_rank": ()})) is None


# --- the command's work


def write(folder: Path, seed: int) -> str:
    generator = torch.Generator().manual_seed(seed)
    names = [f"model.layers.{i}.self_attn.q_proj" for i in range(2)]
    factors = {
        n: Factors(torch.randn(2, 8, generator=generator), torch.randn(6, 2, generator=generator), 1.0) for n in names
    }
    Adapter(factors, "base").save(folder)
    return str(folder)


def test_a_diagnosis_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Red: a folder that is refused stops the others."""
    folders = {name: write(tmp_path / name, i) for i, name in enumerate(("a", "b", "c"))}
    bad = tmp_path / "bad"
    bad.mkdir()
    folders["bad"] = str(bad)
    run_diagnose(folders, tmp_path / "out", as_json=False)
    text = capsys.readouterr().out
    assert "a · b" in text and "Refused, and in none of the numbers" in text
    assert "advice: First repair or omit bad" in text
    found = Diagnosis.from_json((tmp_path / "out" / "diagnosis.json").read_text("utf-8"), "here")
    assert [a.name for a in found.adapters] == ["a", "b", "c"]
    assert found.findings[0].kind == "refused"
    assert (tmp_path / "out" / "diagnosis.html").read_text("utf-8") == diagnosis_page(found)
    run_diagnose(folders, None, as_json=True)
    assert json.loads(capsys.readouterr().out) == json.loads(found.to_json())


def test_factors_that_turn_out_broken_when_they_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of PEFT's own, whose numbers nothing vouches for. Red: read_parts lets the error through."""
    folders = {name: write(tmp_path / name, i) for i, name in enumerate(("a", "b"))}
    factors = {"model.layers.0.self_attn.q_proj": Factors(torch.full((2, 8), float("inf")), torch.ones(6, 2), 1.0)}
    Adapter(factors, "base").save(tmp_path / "c")
    (tmp_path / "c" / "cogen.json").unlink()
    run_diagnose({**folders, "c": str(tmp_path / "c")}, None, as_json=True)
    found = json.loads(capsys.readouterr().out)["findings"]
    assert ("c", "problem") in [(f["adapter"], f["level"]) for f in found if f["kind"] in ("unreadable", "refused")]


def test_one_adapter_cannot_be_compared(tmp_path: Path) -> None:
    folders = {"a": write(tmp_path / "a", 0), "bad": str(tmp_path / "nothing")}
    with pytest.raises(MergeError, match=r"got 1 of 2; bad: .*no such folder"):
        run_diagnose(folders, tmp_path / "out", as_json=False)
    assert not (tmp_path / "out").exists()
