"""The section "What this model remembers": it says what the audit says, and no more than its intervals support.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cogen.audit.record import AttackFigures, Audit, AuditRow, Estimate, PersonalFigures, Verbatim, VerbatimFigures
from cogen.errors import RunError
from cogen.report import write_report
from cogen.report.audit_box import audit_chart
from cogen.report.audit_table import attack_cells, table_cells
from cogen.report.audit_text import telling, verdict_lines
from cogen.report.page import SECTIONS
from cogen.report.reader import read_run
from tests.audit_example import example, row
from tests.unit.test_live import append
from tests.unit.test_report import page, started, whole_run, words, write_run, write_scores

NONE = VerbatimFigures(100, 0, Estimate(0.0, 0.0, 0.03), 3.0)


def audit_of(*rows: AuditRow) -> Audit:
    return example().model_copy(update={"rows": rows, "canaries": (), "not_measured": ()})


def scored(model: str, ratio: Estimate, *others: AttackFigures, domain: str = "grid") -> AuditRow:
    """A row with this AUC of the ratio, nothing continued and no personal data."""
    made = row(model, domain, 0.5)
    scores = (AttackFigures("ratio", ratio, Estimate(0.0, 0.0, 0.1)), *others)
    membership = replace(made.membership, scores=scores)
    return replace(made, membership=membership, verbatim=Verbatim(NONE, NONE), personal={})


def base(*scores: AttackFigures) -> AuditRow:
    made = row("base", "grid", 0.5)
    return replace(made, membership=replace(made.membership, scores=scores or made.membership.scores))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished simulation with an expert and a merged adapter."""
    folder = write_run(tmp_path / "demo", whole_run())
    write_scores(folder)
    (folder / "run_metadata.json").write_text(json.dumps({"format": 1, "versions": {}, "data": {}}))
    for place in ("merged", "experts/grid"):
        (folder / place).mkdir(parents=True)
        (folder / place / "cogen.json").write_text(json.dumps({"format": 1, "base": "tiny"}))
    return folder


# --- sentences


@pytest.mark.parametrize(
    ("combined", "expected"),
    [
        (Estimate(0.61, 0.52, 0.69), "trained passages are told from others for grid in 61% of pairs (52% to 69%)."),
        (
            Estimate(0.61, 0.49, 0.72),
            "no attack tells trained passages from others better than guessing (the interval of",
        ),
        (Estimate(0.61, 0.0, 1.0), "for grid there are too few documents to say."),
    ],
)
def test_the_verdict_says_what_the_interval_supports(combined: Estimate, expected: str) -> None:
    """Red: the value compared with 0.5 instead of the lower bound; an interval of 0 to 1 taken for one."""
    (line, *_) = verdict_lines(audit_of(base(), scored("combined", combined)))
    assert line.startswith("With the combined model, ")
    assert expected in line
    assert ("reaches 72% of pairs" in line) == (combined.high == 0.72)


def test_domains_are_told_apart_in_the_verdict() -> None:
    low, high = Estimate(0.52, 0.45, 0.59), Estimate(0.8, 0.7, 0.9)
    rows = [scored(f"expert:{d}", high, domain=d) for d in "abcde"]
    (line, *_) = verdict_lines(audit_of(*rows, scored("expert:f", low, domain="f")))
    assert "for a in 80% of pairs (70% to 90%), for b" in line
    assert "better than guessing for 2 more domains" in line
    assert "for f, no attack tells trained passages from others better than guessing" in line
    assert "reaches 59% of pairs" in line


def test_what_the_base_gets_without_the_text_is_no_memory() -> None:
    """Trained passages that are plainer text have a higher likelihood under any model."""
    plain = AttackFigures("loss", Estimate(0.65, 0.6, 0.7), Estimate(0.0, 0.0, 0.1))
    chance = Estimate(0.5, 0.44, 0.56)
    alone, tuned = audit_of(base(plain)), scored("combined", chance, plain)
    assert telling(audit_of(base(plain), tuned), tuned) is None
    better = replace(plain, auc=Estimate(0.72, 0.66, 0.78))
    found = scored("combined", chance, better)
    assert telling(audit_of(*alone.rows, found), found) == better
    assert "(66% to 78%, by loss)" in verdict_lines(audit_of(*alone.rows, found))[0]


def test_rounds_are_a_kind_of_their_own() -> None:
    quiet, loud = Estimate(0.5, 0.44, 0.56), Estimate(0.7, 0.6, 0.8)
    lines = verdict_lines(audit_of(base(), scored("round:3", loud), scored("combined", quiet)))
    assert lines[0].startswith("With the combined model, no attack")
    assert "With the global adapters of earlier rounds" in lines[1] and "round:3" in lines[1]


def test_verbatim_text_and_personal_data_are_counted_against_the_base() -> None:
    lines = verdict_lines(example())
    assert (
        "At most, expert:clinical continues 3 of 128 trained passages of clinical word for word "
        "(0 of 128 unseen ones; with the base, which has not seen them here, 0 of 128)." in lines
    )
    assert any("completes 1 of 4 values of personal data" in line and "(the base 0)" in line for line in lines)
    assert any("gives away 0 of 4 secrets planted once and 4 of 4 secrets planted 16 times" in line for line in lines)


def test_nothing_found_is_said_in_counts() -> None:
    quiet = scored("combined", Estimate(0.5, 0.44, 0.56))
    lines = verdict_lines(audit_of(base(), quiet))
    assert "No trained passage is continued word for word, of up to 100 that were tried with each model." in lines
    assert "No personal data was found in the trained text that was searched." in lines
    some = replace(quiet, personal={"email": PersonalFigures(4, 0), "iban": PersonalFigures(2, 0)})
    assert "None of 6 values of personal data in the trained text is completed." in verdict_lines(audit_of(some))


# --- tables and chart


def test_too_few_unseen_passages_have_no_share_at_one_percent() -> None:
    """Red: the share of an audit that cannot resolve 1%."""
    assert [c.found for c in table_cells(example(99))] == ["–"] * 6
    assert [c.found for c in table_cells(example(100))] == ["–", "22%", "8%"] * 2  # the base has no ratio
    assert {c.found for c in attack_cells(example(99))} == {"–"}


def dots(drawing: str) -> Sequence[float]:
    return [float(x) for x in re.findall(r'<circle class="mark \w+" cx="([\d.]+)"', drawing)]


def test_a_dot_stands_where_its_share_is() -> None:
    """0.75 lies in the middle of 0.5 and 1. Red: an axis that begins elsewhere for dots and lines."""
    rows = [scored("combined", Estimate(v, v - 0.02, v + 0.02)) for v in (0.5, 0.75)]
    chart = audit_chart(audit_of(replace(rows[0], domain="a"), replace(rows[1], domain="b")))
    assert chart is not None
    for drawing in map(str, (chart.wide, chart.narrow)):
        marks = sorted({float(x) for x in re.findall(r'class="axis" d="M([\d.]+)', drawing)})
        first, second = dots(drawing)
        assert first == pytest.approx(marks[0], abs=0.11)
        assert second == pytest.approx((marks[0] + marks[1]) / 2, abs=0.11)
        assert re.findall(r'class="mark (\w+)"', drawing) == ["better", "worse"]


def test_no_chart_without_a_model() -> None:
    assert audit_chart(audit_of(base())) is None


# --- page and card


def test_the_page_has_the_section(run: Path) -> None:
    rows = (*example().rows, row("round:1", "grid", 0.6))
    example().model_copy(update={"rows": rows}).write(run / "audit.json")
    html = page(run)
    text = words(html)
    assert "With the combined model, trained passages are told from others for clinical in 58% of pairs" in text
    assert "grid expert 72% 66% to 78% 22% 3 of 128 0 of 128 1 of 4" in text
    assert "expert:materials on materials: not audited, its documents changed since it was trained." in text
    assert "grid 16 4 4 8.0 bits 100%" in text
    assert "grid expert min-k%++ 61% 55% to 67%" in text
    rounds = html[html.index("Global adapters of earlier rounds") :]
    assert words(rounds).split("Every attack")[0].count("round:1") == 1
    assert "round:1" not in words(html[html.index("In numbers") : html.index("Global adapters of earlier")])


def test_names_cannot_be_markup(run: Path) -> None:
    bad = "<script>alert(1)</script>|x"
    rows = (row(bad, bad, 0.7), row("combined", bad, 0.7))
    example().model_copy(update={"rows": rows}).write(run / "audit.json")
    assert "<script" not in page(run)
    card = (run / "merged/MODEL_CARD.md").read_text("utf-8")
    assert "<script" not in card and "\\|x |" in card


def test_the_card_has_the_figures(run: Path) -> None:
    example().write(run / "audit.json")
    write_report(run)
    card = (run / "merged/MODEL_CARD.md").read_text("utf-8")
    section = card[card.index("## What this model remembers") : card.index("## Data")]
    assert "told from others for clinical in 58% of pairs (52% to 64%)" in section
    assert "| grid | combined | 58% | 52% to 64% | 8% | 3 of 128 | 0 of 128 | 1 of 4 |" in section
    assert "| grid | 16 | 4 | 4 | 8.0 bits | 100% |" in section


def test_without_an_audit_both_say_so(run: Path) -> None:
    assert "Not audited; cogen audit RUN does it." in words(page(run))
    assert "Not audited; `cogen audit RUN` does it." in (run / "merged/MODEL_CARD.md").read_text("utf-8")
    (run / "run_metadata.json").unlink()  # a real federation's run
    assert "Not audited: the texts that it was trained on are not here" in words(page(run))


def test_a_run_without_an_adapter_has_no_section(tmp_path: Path) -> None:
    assert "What this model remembers" not in page(write_run(tmp_path, [started()]))


def test_a_malformed_audit_is_an_error_of_its_file(run: Path) -> None:
    (run / "audit.json").write_text("{}")
    with pytest.raises(RunError, match=r"audit\.json"):
        write_report(run)


def test_an_open_page_gets_the_section_when_the_audit_is_there(run: Path) -> None:
    """Red: audit.json is no file whose change is looked for."""
    from cogen.report.fragments import Fragments

    shown = Fragments(run)
    shown.refresh(at_once=True)
    before = shown.last_id
    example().write(run / "audit.json")
    shown.refresh(at_once=True)
    assert "told from others" in shown.message(before)
    append(run / "nodes/grid/train.jsonl", {"round": 1, "step": 1, "num_tokens": 100, "loss_nats": 3.0})
    assert SECTIONS["remembered"](read_run(run), True) == SECTIONS["remembered"](read_run(run), False)
