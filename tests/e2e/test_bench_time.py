"""benchmarks/time_to_quality.py on the tiny base: both sides are trained and scored, and the ratio is of what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.forked_program import run_forked

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "benchmarks" / "time_to_quality.py"


@pytest.mark.slow
def test_trainer_and_cogen(tiny_folder: Path) -> None:
    """Red: ours scored on the factors of the start; a ratio although the target was not reached."""
    words = [f"--base={tiny_folder}", f"--data={ROOT / 'seeds/grid.jsonl'}", "--tokens=4096", "--budgets=1024,4096"]
    command = [sys.executable, str(SCRIPT), *words, "--threads=1"]
    done = run_forked(command)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    theirs, ours = found["trainer"], found["ours"]
    assert theirs["num_tokens"] >= 4096 and theirs["seconds"] > 0
    assert [run["num_tokens"] for run in ours] == [1024, 4096][: len(ours)]
    assert len({theirs["base_bits_per_byte"], theirs["bits_per_byte"], ours[-1]["bits_per_byte"]}) == 3
    if ours[-1]["bits_per_byte"] <= theirs["bits_per_byte"]:
        assert found["times_faster"] == pytest.approx(theirs["seconds"] / ours[-1]["seconds"], abs=0.01)
    else:
        assert found["times_faster"] is None and len(ours) == 2
