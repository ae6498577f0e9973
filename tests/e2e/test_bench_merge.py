"""`benchmarks/merge.py` from end to end, in sizes that take no time."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.forked_program import run_forked

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "merge.py"


def bench(tmp_path: Path, *words: str) -> tuple[str, list[dict[str, Any]]]:
    """Run it; the markdown, and every run. Nothing but the JSON stays behind."""
    report, work = tmp_path / "merge.json", tmp_path / "work"
    work.mkdir()
    command = [sys.executable, str(SCRIPT), "--smoke", "--repeats", "1", *words]
    done = run_forked(
        [*command, "--workdir", str(work), "--json", str(report)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert not list(work.iterdir())
    return done.stdout, json.loads(report.read_text())["runs"]


def cells(markdown: str) -> list[list[str]]:
    """The table's rows below its head."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.slow
def test_the_mean_agrees_with_a_dense_svd(tmp_path: Path) -> None:
    markdown, (run,) = bench(tmp_path, "--cases", "135m", "--methods", "mean", "--tools", "cogen")
    assert [row[:3] for row in cells(markdown)] == [["135m", "5", "cogen mean"]]
    assert 0 < run["error"] < 1e-5
    assert 0 < run["call_s"] < run["whole_s"] < run["process_s"]
    assert run["imports_mb"] <= run["peak_mb"]


def test_ratios_are_taken_within_a_repeat_and_targets_follow_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from merge_table import rows, table, targets

    def run(case: str, count: int, tool: str, repeat: int, seconds: float, peak: float) -> dict[str, Any]:
        times = dict.fromkeys(("call_s", "whole_s", "process_s"), seconds)
        return {
            "case": case,
            "count": count,
            "tool": tool,
            "method": "mean",
            "repeat": repeat,
            "peak_mb": peak,
            **times,
        }

    drifting = [("cogen", 1.0), ("PEFT", 20.0), ("cogen", 2.0), ("PEFT", 50.0), ("cogen", 4.0), ("PEFT", 84.0)]
    runs = [run("135m", 5, tool, i // 2, seconds, 500.0) for i, (tool, seconds) in enumerate(drifting)]
    runs += [run("7b", 10, "cogen", 0, 31.0, 1999.0)]
    runs += [run("many", 10, "cogen", 0, 1.0, 500.0), run("many", 100, "cogen", 0, 1.0, 560.0)]
    found = rows(runs)
    ours, theirs = cells(table(found))[:2]
    assert ours[:5] == ["135m", "5", "cogen mean", "2.00 (1.00 to 4.00)", ""]
    assert theirs[:5] == ["135m", "5", "PEFT svd", "50.0 (20.0 to 84.0)", "21x"]  # of 20, 25 and 21
    verdicts = [line.rpartition(": ")[2] for line in targets(found)]
    assert verdicts == ["met", "missed", "met", "missed"]


@pytest.mark.slow
def test_every_case_has_its_rows(tmp_path: Path) -> None:
    markdown, runs = bench(tmp_path, "--tools", "cogen,PEFT")
    assert [row[:3] for row in cells(markdown)] == [
        ["135m", "5", "cogen mean"],
        ["135m", "5", "PEFT svd"],
        ["135m", "5", "cogen ties"],
        ["135m", "5", "PEFT ties_svd"],
        ["135m", "5", "cogen dare"],
        ["135m", "5", "PEFT dare_linear_svd"],
        ["7b", "10", "cogen mean"],
        ["many", "2", "cogen mean"],
        ["many", "2", "PEFT svd"],
        ["many", "8", "cogen mean"],
        ["many", "8", "PEFT svd"],
    ]
    assert all(0 < run["error"] < 1e-5 for run in runs[:2])
