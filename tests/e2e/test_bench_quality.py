"""`benchmarks/rounds.py` and `benchmarks/merge_methods.py` from end to end on the tiny base."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SEEDS
from tests.forked_program import run_forked
from tests.shell import Cogen

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
DOMAINS = ("grid", "clinical")
SMALL = ["--sequence-length", "64", "--heldout-tokens", "128"]


def bench(script: str, report: Path, *words: str) -> tuple[str, dict[str, Any]]:
    """Run it; the markdown, and what it wrote."""
    command = [sys.executable, str(BENCHMARKS / script), *words, *SMALL, "--json", str(report)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = run_forked(command, cwd=report.parent, env=env)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout, json.loads(report.read_text())


def data() -> list[str]:
    return [word for d in DOMAINS for word in ("--data", f"{d}={SEEDS / d}.jsonl")]


def test_rounds_of_mixed_rank_keep_what_whole_averaging_loses(tiny_folder: Path, tmp_path: Path) -> None:
    """Red: `whole` gets the whole global adapter instead of its cut."""
    words = ["--base", str(tiny_folder), "--precision", "float32"]  # so few steps gain little
    words += ["--ranks", "2,6", "--rounds", "3", "--tokens", "256"]
    shown, found = bench("rounds.py", tmp_path / "r.json", *data(), *words, "--variants", "keep,whole")
    beyond = {name: [r["beyond"] for r in v["rounds"]] for name, v in found["variants"].items()}
    assert beyond["keep"][0] == pytest.approx(beyond["whole"][0], rel=1e-3)
    assert beyond["keep"][2] > 2 * beyond["whole"][2]
    for domain in DOMAINS:
        scores = found["variants"]["keep"]["bits_per_byte"][domain]
        assert scores["combined"] < scores["base"]
    assert "| keep |" in shown and "round 3" in shown


def test_methods_are_searched_and_set_side_by_side(tiny_folder: Path, tmp_path: Path, cogen: Cogen) -> None:
    """Red: rows without the factor average."""
    experts = []
    for domain in DOMAINS:
        out = tmp_path / domain
        tell = ["train", "--base", str(tiny_folder), "--data", f"{SEEDS / domain}.jsonl", "--domain", domain]
        settings = ["--tokens", "512", "--set", "train.sequence_length=64", "--set", "train.rank=4"]
        assert cogen(*tell, "--out", str(out), *settings)[0] == 0
        experts += ["--expert", f"{domain}={out}"]
    words = ["--base", str(tiny_folder), "--methods", "mean", "tsv_m", "--budget", "2", "--search-tokens", "64"]
    shown, found = bench("merge_methods.py", tmp_path / "m.json", *experts, *data(), *words)
    assert list(found["rows"]) == ["base", "own expert", "mean, scale 1", "factor average", "mean", "tsv_m"]
    assert all(set(row["bits_per_byte"]) == set(DOMAINS) for row in found["rows"].values())
    assert "| tsv_m |" in shown and "worst domain" in shown
