"""Which learning rate is chosen, by hand and from the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cogen.base import Base
from cogen.config import Train
from cogen.train.range_test import NUM_STEPS, RATES, RateTrial, level_settings, range_test, stable_trials
from cogen.train.schedule import learning_rate, plan_round
from tests.shell import Cogen

SEEDS = Path(__file__).parents[2] / "seeds"
LOW, MIDDLE = RateTrial(1e-5, (3.0, 3.2, 2.8), 2.95), RateTrial(1e-4, (3.0, 3.1, 2.6), 2.70)


@pytest.mark.parametrize(
    ("highest", "stable"),
    [
        (RateTrial(1e-3, (3.0, 2.9, 2.4), 2.50), True),
        (RateTrial(1e-3, (3.0, 3.29, 2.85), 2.79), True),  # a little up: noise
        (RateTrial(1e-3, (3.0, 3.31, 2.4), 2.50), False),  # one step shot up
        (RateTrial(1e-3, (3.0, 3.1, 2.6), 2.81), False),  # ends above what a lower rate reached
        (RateTrial(1e-3, (3.0, math.inf), math.inf), False),
        (RateTrial(1e-3, (3.0, 3.1, 2.6), math.nan), False),
    ],
)
def test_the_highest_stable_rate_is_taken(highest: RateTrial, stable: bool) -> None:
    """Red: the lowest loss taken; steps not compared; NaN let through."""
    for order in ([LOW, MIDDLE, highest], [highest, LOW, MIDDLE]):
        assert stable_trials(order, 3.0) == ([LOW, MIDDLE, highest] if stable else [LOW, MIDDLE])


def test_above_an_unstable_rate_none_is_taken() -> None:
    shaky = RateTrial(5e-5, (3.0, 3.9, 2.8), 2.9)
    assert stable_trials([LOW, shaky, MIDDLE], 3.0) == [LOW]
    assert stable_trials([RateTrial(1e-5, (math.nan,), math.nan), MIDDLE], 3.0) == []
    assert stable_trials([LOW], 2.8) == [], "worse than before training"


def test_every_rate_starts_alike_and_stays_level(tiny: Base) -> None:
    """The first step's loss is that of the start; the next tell the rates apart. Red: factors handed on."""
    given = Train(sequence_length=32, batch_size=2, rank=3, schedule="wsd", annealing="nowhere", early_stop_patience=1)
    before, trials = range_test(tiny, {"grid": SEEDS / "grid.jsonl"}, given, heldout_frac=0.15)
    assert [t.learning_rate for t in trials] == list(RATES)
    assert len({t.step_nats[0] for t in trials}) == 1 and len({t.step_nats[-1] for t in trials}) == len(RATES)
    assert all(len(t.step_nats) == NUM_STEPS for t in trials)
    assert len({before, *(t.nats_after for t in trials)}) == len(RATES) + 1
    level, plan = level_settings(given, 3e-4), plan_round(level_settings(given, 3e-4), 1, 1)
    assert {learning_rate(level, s, plan.total_steps) for s in range(plan.num_steps)} == {3e-4}


def options(tiny_folder: Path) -> list[Any]:
    common = ["train", "--base", tiny_folder, "--data", SEEDS / "grid.jsonl"]
    return [*common, "--set", "train.sequence_length=32", "--set", "train.rank=3"]


def test_from_the_command_line(cogen: Cogen, tiny_folder: Path) -> None:
    """Nothing is written, and no name is needed; the table names a rate that --set takes."""
    code, out, err = cogen(*options(tiny_folder), "--lr-range-test", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [t["learning_rate"] for t in found["trials"]] == list(RATES)
    assert found["recommended"] == max(t["learning_rate"] for t in found["trials"] if t["stable"])
    code, out, _ = cogen(*options(tiny_folder), "--lr-range-test")
    assert code == 0 and len(out.splitlines()) == len(RATES) + 2
    assert out.splitlines()[-1] == f"take --set train.learning_rate={found['recommended']:g}"
    assert list(Path().iterdir()) == []
