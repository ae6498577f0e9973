"""Probes, questions and tasks in `evaluation.json`: round trip, every error, and tables."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cogen.errors import RunError
from cogen.evaluate.matrix import Cell, Evaluation
from cogen.evaluate.scores import ProbeScore, QuestionScore, TaskScore
from cogen.evaluate.tables import format_evaluation

TABLES = """\
probe accuracy              grid           other
base              30.0% [10, 50]   25.0% [0, 50]
combined        100.0% [90, 100]               -
chance                     25.0%           50.0%
probes                        20               4

calibration error   grid   other
base               0.125   0.125
combined           0.125       -

questions  domain   right   abstained   wrong   made up   confidence     over   answerable   not
base         grid   50.0%       10.0%   40.0%     90.0%        60.0%   +20.0%           10    20
combined     grid       -           -       -     90.0%            -        -            0    20

tasks                    base   combined
arc acc        0.5000 ±0.0100     0.6000
arc f1,strict          0.2500          -
"""


def probe(model: str, domain: str, accuracy: float, low: float, high: float, num: int, chance: float) -> ProbeScore:
    return ProbeScore(model, domain, num, accuracy, low, high, 0.2, chance, 0.125)


def example() -> Evaluation:
    return Evaluation(
        cells=(),
        probes=(
            probe("base", "grid", 0.3, 0.1, 0.5, 20, 0.25),
            probe("base", "other", 0.25, 0.0, 0.5, 4, 0.5),
            probe("combined", "grid", 1.0, 0.9, 1.0, 20, 0.25),
        ),
        questions=(
            QuestionScore("base", "grid", 10, 20, 0.5, 0.1, 0.4, 0.9, 0.6, 0.2),
            QuestionScore("combined", "grid", 0, 20, None, None, None, 0.9, None, None),
        ),
        tasks=(
            TaskScore("base", "arc", "acc", 0.5, 0.01, 100),
            TaskScore("base", "arc", "f1,strict", 0.25, None, 100),
            TaskScore("combined", "arc", "acc", 0.6, None, 100),
        ),
    )


def test_there_and_back() -> None:
    text = example().to_json()
    assert Evaluation.from_json(text, "here") == example()
    values = json.loads(text)
    assert (values["format"], values["cells"]) == (1, [])
    assert [len(values[part]) for part in ("probes", "questions", "tasks")] == [3, 2, 3]


def test_parts_that_were_not_asked_for_are_absent() -> None:
    """So that what was written before reads the same, and what is written now reads with what was there before."""
    assert set(json.loads(Evaluation(cells=(Cell("base", "grid", 1.0, 4, 1),)).to_json())) == {"format", "cells"}


@pytest.mark.parametrize(
    ("part", "change", "complaint"),
    [
        ("probes", {"accuracy_frac": None}, "probes.0.accuracy_frac to be a valid number, got None"),
        ("probes", {"num_probes": 2.0}, "probes.0.num_probes to be a valid integer, got 2.0"),
        ("probes", {"model": ""}, "probes.0.model to have at least 1 character"),
        ("questions", {"right_frac": "half"}, "questions.0.right_frac to be a valid number, got 'half'"),
        ("questions", {"num_answerable": -1}, "questions.0.num_answerable to be greater than or equal to 0, got -1"),
        ("tasks", {"value": True}, "tasks.0.value to be a valid number, got True"),
        ("tasks", {"more": 1}, "no field tasks.0.more, got 1"),
    ],
)
def test_a_malformed_score_is_named(part: str, change: dict[str, Any], complaint: str) -> None:
    values = json.loads(example().to_json())
    values[part][0] |= change
    with pytest.raises(RunError, match="cannot read evaluation") as caught:
        Evaluation.from_json(json.dumps(values), "there")
    assert complaint in str(caught.value) and "(there)" in str(caught.value)


@pytest.mark.parametrize("part", ["probes", "questions", "tasks"])
def test_a_score_that_is_there_twice_or_no_list_is_refused(part: str) -> None:
    values = json.loads(example().to_json())
    values[part].append(values[part][0])
    with pytest.raises(RunError, match="twice"):
        Evaluation.from_json(json.dumps(values), "there")
    with pytest.raises(RunError, match=f"{part} to be a list, got {{}}"):
        Evaluation.from_json(json.dumps({**values, part: {}}), "there")


def test_tables() -> None:
    assert format_evaluation(example()) == TABLES
