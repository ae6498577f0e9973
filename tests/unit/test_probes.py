"""Probe files, and scores from the log-likelihoods of choices."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cogen.base import Base
from cogen.errors import DataError
from cogen.evaluate.continuation import encode_pair
from cogen.evaluate.probes import (
    Probe,
    as_prompt,
    calibration_error,
    mean_interval,
    probe_pairs,
    read_probes,
    score_probes,
    sum_up,
)

GOOD = {"id": "p1", "question": "What trips?", "choices": ["a relay", "a song"], "answer": 0, "document": "grid-001"}


def write(folder: Path, *rows: object) -> Path:
    path = folder / "probes.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n", "utf-8")
    return path


def test_questions_are_put_as_prompts_and_contexts_as_they_are(tmp_path: Path) -> None:
    cloze = {"id": "p2", "context": "The breaker opened the ", "choices": ["circuit", "café"], "answer": 1}
    found = read_probes(write(tmp_path, GOOD, "", cloze))
    assert found == (
        Probe("p1", "Question: What trips?\nAnswer:", ("a relay", "a song"), 0, "grid-001"),
        Probe("p2", "The breaker opened the", ("circuit", "café"), 1),
    )
    assert as_prompt("What trips?") == found[0].context


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ("{", "one JSON object a line"),
        ("[]", "one JSON object a line, got list"),
        ({**GOOD, "context": "x"}, "a question or a context, got both"),
        ({"id": "x"}, "a question or a context, got keys id"),
        ({**GOOD, "question": " "}, "question as text, got ' '"),
        ({**GOOD, "id": 3}, "id as text, got 3"),
        ({**GOOD, "choices": ["one"]}, "two choices or more, got 1"),
        ({**GOOD, "choices": "ab"}, "choices as a list of texts, got 'ab'"),
        ({**GOOD, "choices": ["a", ""]}, "choices as a list of texts"),
        ({**GOOD, "choices": ["a", "a"]}, "choices that differ"),
        ({**GOOD, "answer": 2}, "answer as an index from 0 to 1, got 2"),
        ({**GOOD, "answer": -1}, "answer as an index from 0 to 1, got -1"),
        ({**GOOD, "answer": True}, "got True"),
        (GOOD, "each id once, got 'p1' twice"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, bad: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=r"probes\.jsonl, line 2\)") as caught:
        read_probes(write(tmp_path, GOOD, bad))
    assert complaint in str(caught.value)


def test_a_missing_or_empty_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read probes: .*No such file.*none\.jsonl"):
        read_probes(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="got an empty file"):
        read_probes(write(tmp_path, "", " "))


def test_a_pair_is_split_where_the_context_ends(tiny: Base) -> None:
    """Spaces at the context's end go to the text, so that words begin as they do in running text."""
    pair = encode_pair(tiny.tokenizer, "The relay ", "trips")
    assert tiny.tokenizer.decode(pair.context) == "The relay" and tiny.tokenizer.decode(pair.tokens) == " trips"
    assert pair == encode_pair(tiny.tokenizer, "The relay", " trips")
    with pytest.raises(DataError, match="a text that adds tokens"):
        encode_pair(tiny.tokenizer, "The relay", "")


def test_scores_by_hand() -> None:
    """Four probes whose sums, sums per byte and sums per character prefer different choices."""
    items = [
        Probe("a", "x", ("ab", "abcd"), 1),  # per byte -1.0, -0.75; by sum the short one
        Probe("b", "x", ("ab", "abcd"), 0),  # per byte -0.5, -0.75
        Probe("c", "x", ("éé", "abc"), 0),  # per byte -0.75, -0.9; per character -1.5, -0.9
        Probe("d", "x", ("a", "b", "c", "d"), 3),  # a tie goes to the first
    ]
    nats = [-2.0, -3.0, -1.0, -3.0, -3.0, -2.7, -1.0, -1.0, -1.0, -1.0]
    found = sum_up(items, nats, "base", "grid")
    assert (found.model, found.domain, found.num_probes) == ("base", "grid", 4)
    assert found.accuracy_frac == pytest.approx(0.75)
    assert found.sum_accuracy_frac == pytest.approx(0.25)
    assert found.chance_frac == pytest.approx((0.5 * 3 + 0.25) / 4)
    sure = [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-0.3)), 0.25]
    right = [0, 1, 0, 0]  # in bins of their own: 0.73, 0.88, 0.57, 0.25
    expected = sum(abs(s - r) for s, r in zip(sure, right, strict=True)) / 4
    assert found.calibration_error_frac == pytest.approx(expected)
    assert 0.0 <= found.low_frac < 0.75 < found.high_frac <= 1.0


def test_very_unlikely_choices_do_not_overflow() -> None:
    found = sum_up([Probe("a", "x", ("ab", "cd"), 0)], [-9000.0, -9010.0], "base", "grid")
    assert found.calibration_error_frac == pytest.approx(math.exp(-10) / (1 + math.exp(-10)))


def test_calibration_error_against_scikit_learn() -> None:
    """Values on the edges too: a bin has its upper edge."""
    curve = pytest.importorskip("sklearn.calibration").calibration_curve
    rng = np.random.default_rng(3)
    sure = np.concatenate([rng.uniform(0.0, 1.0, 300), np.arange(11) / 10])
    right = rng.uniform(0.0, 1.0, len(sure)) < sure**2
    true, said = curve(right, sure, n_bins=10, strategy="uniform")
    counts = np.histogram(np.searchsorted(np.linspace(0, 1, 11)[1:-1], sure), bins=np.arange(11))[0]
    assert len(true) == 10
    expected = float((np.abs(true - said) * counts).sum() / len(sure))
    assert expected > 0.1
    assert calibration_error(sure.tolist(), right.tolist()) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_by_hand() -> None:
    """Two in one bin whose errors cancel, one alone."""
    assert calibration_error([0.61, 0.69], [True, False]) == pytest.approx(0.15)
    assert calibration_error([0.9, 0.31], [True, False]) == pytest.approx((0.1 + 0.31) / 2)
    assert calibration_error([1.0, 1.0], [True, True]) == 0.0


def test_interval_against_scipy() -> None:
    bootstrap = pytest.importorskip("scipy.stats").bootstrap
    values = np.random.default_rng(1).uniform(0, 1, 120) < 0.4
    low, high = mean_interval(values.tolist())
    theirs = bootstrap((values.astype(float),), np.mean, n_resamples=20000, method="percentile", rng=7)
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.015)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.4 * 0.6 / 120), rel=0.15)
    assert (low, high) == mean_interval(values.tolist()) != mean_interval(values.tolist(), seed=1)
    assert mean_interval([1.0, 1.0]) == (1.0, 1.0)


def test_what_is_attached_now_is_scored(tiny: Base) -> None:
    items = [Probe(str(i), as_prompt("Which?"), ("relay", "a transformer", "feeder"), i % 3) for i in range(6)]
    seen: list[int] = []
    found = score_probes(tiny, items, "base", "grid", seen.append)
    assert found.accuracy_frac == pytest.approx(1 / 3)
    assert sum(seen) == sum(pair.num_tokens for pair in probe_pairs(items, tiny.tokenizer))
