"""A report with more in the run folder: seeds and baselines, probes, contributions, costs, hashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cogen.errors import RunError
from cogen.evaluate.matrix import Cell, Evaluation
from cogen.evaluate.seed_summary import DomainSummary, SeedSummary, Spread, summarize_seeds
from cogen.evaluate.seed_summary_file import SeedSummaryFile
from cogen.evaluate.seed_summary_text import joining_lines
from cogen.report.clients import client_totals
from cogen.report.headline import forgotten, verdict
from cogen.report.reader import read_run
from tests.unit.test_report import event, finished, page, replied, started, whole_run, words, write_run, write_scores


def spread(mean: float | None, sd: float = 0.0) -> dict[str, Any]:
    """Of three seeds."""
    values = Spread((None,) * 3 if mean is None else (mean - sd, mean, mean + sd))
    return {"mean": values.mean, "sd": values.sd, "values": list(values.values)}


def seed_summary(seeds: int, members: dict[str, DomainSummary]) -> SeedSummary:
    return SeedSummary(tuple(range(seeds)), {}, {}, {}, {}, members)


def write(path: Path, **values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": 1, **values}), "utf-8")


def add(run: Path, **values: Any) -> None:
    """More parts for an evaluation.json that is there."""
    path = run / "evaluation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "demo", whole_run())
    write_scores(folder)
    return folder


# --- seeds and baselines


def test_the_verdict_counts_domains_that_gained() -> None:
    members = {
        "clinical": DomainSummary(Spread((0.02, 0.04)), Spread((0.02,))),
        "grid": DomainSummary(Spread((-0.02, 0.0)), Spread((0.02,))),
        "materials": DomainSummary(Spread((0.01,)), Spread((None,))),
        "education": DomainSummary(Spread((None,)), Spread((0.5,))),
    }
    found = seed_summary(2, members)
    assert verdict(found) == (
        "Joining was better than training alone for 2 of 3 domains on their own text, "
        "0.0100 bits per byte better on average (2 seeds)."
    )
    assert list(joining_lines(found)) == [
        "clinical: joining improved your own held-out text by 0.0300 ± 0.0141 bits per byte over training alone, "
        "and improved others' by 0.0200",
        "grid: joining worsened your own held-out text by 0.0100 ± 0.0141 bits per byte over training alone, "
        "and improved others' by 0.0200",
        "materials: joining improved your own held-out text by 0.0100 bits per byte over training alone",
    ]
    assert verdict(None) == ""
    assert verdict(seed_summary(1, {})) == ""


def test_a_seed_summary_is_the_answer_at_the_top(run: Path) -> None:
    rows = [
        {"model": m, "domain": d, **spread(v, 0.002)}
        for m, v in (("base", 1.0), ("centralized", 0.75))
        for d in ("clinical", "grid")
    ]
    members = {"clinical": {"own": spread(0.02, 0.004), "others": spread(-0.01, 0.003)}}
    general = [{"model": "centralized", **spread(1.31, 0.005)}]
    gains = {"clinical": spread(0.871, 0.02), "grid": spread(None)}
    write(
        run / "seed_summary.json",
        seeds=[0, 1, 2],
        rows=rows,
        retained_gain=gains,
        general=general,
        forgetting={},
        members=members,
        new=1,
    )
    html = page(run)
    text = words(html)
    assert text.index("Joining was better than training alone for 1 of 1 domains") < text.index("The combined model")
    assert "centralized 0.7500 ± 0.0020 0.7500 ± 0.0020 1.3100 ± 0.0050" in text
    assert "retained gain [%] 87.1 ± 2.0 –" in text
    assert "worsened others&#39; by 0.0100 ± 0.0030 bits" not in text
    assert "and worsened others&#39; by 0.0100 ± 0.0030." in text


def test_without_a_seed_summary_the_evaluation_answers(run: Path) -> None:
    text = words(page(run))
    assert "Joining" not in text
    assert "Joining compared with" not in text


def test_forgetting_is_against_the_base() -> None:
    scores = [Cell("base", "general", 1.0, 9, 3), Cell("combined", "general", 1.25, 9, 3)]
    for held in (
        Evaluation(cells=(), general=tuple(scores)),
        Evaluation(cells=tuple(scores)),
    ):  # in its own field, or as one of the columns
        assert [f.change for f in forgotten(held, ["grid"])] == [None, 0.25]
    assert [f.change for f in forgotten(Evaluation(cells=(), general=tuple(scores[1:])), ["grid"])] == [None]
    assert forgotten(Evaluation(cells=tuple(scores)), []) == []


def whole_summary() -> SeedSummary:
    """Two seeds, the second without `centralized` on grid."""
    rows = {"base": 1.0, "local:grid": 0.9, "combined": 0.8, "centralized": 0.7}
    cells = [Cell(m, d, v, 4, 1) for m, v in rows.items() for d in ("grid", "clinical")]
    general = tuple(Cell(m, "general", v, 4, 1) for m, v in (("base", 3.0), ("combined", 3.25)))
    return summarize_seeds(
        {0: Evaluation(cells=tuple(cells), general=general), 1: Evaluation(cells=tuple(c for c in cells[:-2]))}
    )


def test_a_seed_summary_is_read_back_as_it_was() -> None:
    """Means over the domains too, which are not in the file."""
    found = whole_summary()
    again = SeedSummaryFile.from_json(SeedSummaryFile.of(found).to_json(), "here").summary()
    assert again == found
    assert again.means == found.means
    assert again.means["centralized"].values == (0.7, None)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seeds": [0]}, r"rows\.0\.values: one for each seed"),
        ({"seeds": []}, "seeds to have at least 1 item"),
        (
            {"rows": [{"model": "base", "domain": "grid", "mean": 2, "sd": 0, "values": [1, 1]}]},
            r"rows\.0\.mean: 1\.0, ",
        ),
        (
            {"rows": [{"model": "base", "domain": "grid", "mean": 1, "sd": 0, "values": [1, 1]}] * 2},
            r"rows without duplicates, got \('base', 'grid'\) twice",
        ),
        ({"general": {}}, "general to be a list"),
        ({"forgetting": {"m": {"mean": 1, "sd": None, "values": [1, 1]}}}, r"forgetting\.m\.sd: 0\.0, computed from"),
        (
            {"members": {"grid": {"own": {"mean": None, "sd": None, "values": [None, None]}}}},
            r"a field members\.grid\.others",
        ),
        ({"retained_gain": {"grid": {"mean": 1, "sd": 0, "values": [1, "1"]}}}, r"retained_gain\.grid\.values"),
    ],
)
def test_a_seed_summary_that_contradicts_itself_is_refused(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(RunError, match=expected):
        SeedSummaryFile.from_json(json.dumps({**SeedSummaryFile.of(whole_summary()).model_dump(), **change}), "here")


# --- more scores


def test_probes_questions_tasks_and_general_text(run: Path) -> None:
    probe = {"model": "combined", "domain": "grid", "num_probes": 20, "accuracy_frac": 0.45, "low_frac": 0.251}
    probe |= {"high_frac": 0.652, "sum_accuracy_frac": 0.4, "chance_frac": 0.25, "calibration_error_frac": 0.123}
    question = {"model": "combined", "domain": "grid", "num_answerable": 10, "num_unanswerable": 7}
    question |= {"right_frac": 0.31, "abstained_frac": 0.11, "wrong_frac": 0.58, "made_up_frac": 0.93}
    question |= {"confidence_frac": 0.6, "overconfidence_frac": 0.3}
    task = {"model": "combined", "task": "arc_easy", "metric": "acc", "value": 0.512, "stderr": None, "num_samples": 9}
    size = {"domain": "general", "num_bytes": 900, "num_tokens": 300}
    general = [{"model": m, "bits_per_byte": v, **size} for m, v in (("base", 1.1), ("combined", 1.12))]
    add(run, probes=[probe], questions=[question], tasks=[task], general=general)
    text = words(page(run))
    assert "combined grid 20 45.0% 25.1% to 65.2% 25.0% 12.3%" in text
    assert "combined grid 10 31% 11% 58% 7 93%" in text
    assert "combined arc_easy acc 0.5120 –" in text
    assert "combined general 1.1200 +0.0200" in text
    assert "against the base: +0.0200 bits per byte on general (lower is better)" in text


def test_where_the_gate_sends_text(run: Path) -> None:
    """Shares of each domain's windows, the domains first; several models are named."""
    sent = {"grid": {"common": 1, "grid": 3}, "clinical": {"clinical": 2}}
    routing = [{"model": "m", "domain": d, "num_windows": n, "chance_frac": 0.876} for d, n in sent.items()]
    add(run, routing=routing)
    html = page(run)
    assert (
        "text of to grid to clinical to common windows sure grid 75% 0% 25% 4 88% clinical 0% 100% 0% 2 88%"
        in words(html)
    )
    assert '<td class="own">75%</td>' in html
    add(run, routing=[*routing, {**routing[0], "model": "<two>"}])
    html = page(run)
    assert "4 88% m" in words(html)
    assert "&lt;two&gt;" in html
    add(run, routing=[*routing, routing[0]])
    with pytest.raises(RunError, match="routing without duplicates"):
        page(run)


def test_contributions_of_the_run_or_of_the_merge(run: Path) -> None:
    share = {"value": 0.021, "standard_error": 0.001, "low": 0.018, "high": 0.024}
    adapters = {"<b>": {"grid": {"leave_one_out": -0.004, "shapley": share}}}
    write(run / "merged/contributions.json", is_exact=False, num_permutations=8, total={}, adapters=adapters)
    html = page(run)
    assert "&lt;b&gt; +0.0210 +0.0180 to +0.0240 absent −0.0040" in words(html)
    assert "<b>" not in html


def test_a_malformed_file_is_named(run: Path) -> None:
    write(run / "seed_summary.json", seeds=[0], members={}, rows=[{"model": "base"}])
    with pytest.raises(RunError, match=r"cannot read seed_summary\.json: expected a field rows\.0\.domain"):
        page(run)
    (run / "seed_summary.json").write_text('{"format": 2}')
    with pytest.raises(RunError, match="expected format 1, got format 2"):
        page(run)
    (run / "seed_summary.json").write_text("{")
    with pytest.raises(RunError, match="expected JSON in UTF-8"):
        page(run)


# --- what it took


def test_clients_over_all_rounds(tmp_path: Path) -> None:
    left = event("client_dropped", round=2, domain="grid", reason="late")
    unscored = event("client_dropped", round=0, domain="grid", reason="scores: late")
    events = [started(num_rounds=2), replied(1, "clinical"), replied(1, "grid"), replied(2, "clinical"), left, unscored]
    run = write_run(tmp_path, [*events, finished(2)])
    rows = [{"round": 1, "seconds": 9.0, "peak_memory_bytes": 9_000}, {"round": 1, "seconds": 30.0}]
    rows += [{"round": n, "seconds": 20.0, "peak_memory_bytes": 1_000_000 * n} for n in (1, 2)]
    (run / "nodes/clinical").mkdir(parents=True)
    (run / "nodes/clinical/rounds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    record = read_run(run)
    clinical, grid = client_totals(record)
    # The second line of round 1 has no memory, and its third takes the place of its first.
    assert record.num_unreadable == 1
    assert (clinical.num_rounds, clinical.num_dropped, clinical.num_tokens) == (2, 0, 10_000)
    assert (clinical.train_seconds, clinical.tokens_per_second) == (40.0, 250.0)
    assert (clinical.peak_memory_bytes, clinical.bytes_up, clinical.bytes_down) == (2_000_000, 3_000_000, 4_000_000)
    # No log of its own: the time to the reply must do.
    assert (grid.num_rounds, grid.num_dropped) == (1, 1)
    assert grid.tokens_per_second == pytest.approx(5000 / 61)
    assert grid.peak_memory_bytes is None
    assert "clinical 2 0 10,000 2 min 2 s 250 2.00 MB 3.00 MB 4.00 MB" in words(page(run))


def test_hashes_versions_and_amounts(run: Path) -> None:
    parents = [{"name": "grid", "factors_sha256": "c" * 64, "weight": 0.25}]
    write(
        run / "merged/cogen.json",
        base="tiny",
        fingerprint={"weights": "a" * 64},
        factors_sha256="b" * 64,
        parents=parents,
    )
    amounts = {"num_documents": 27, "num_tokens": 7421, "num_heldout_documents": 5, "num_heldout_tokens": 1021}
    write(
        run / "run_metadata.json", versions={"torch": "2.13.0"}, data={"grid": {**amounts, "num_dropped_documents": 3}}
    )
    text = words(page(run))
    assert f"base, weights {'a' * 64} combined adapter {'b' * 64} grid, weight 0.25 {'c' * 64}" in text
    assert "torch 2.13.0" in text
    assert "grid 27 7,421 5 1,021 3 0" in text
