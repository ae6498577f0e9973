"""The limits of a day: rounds, figures, bytes, over restarts and clocks that are set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from cogen.data.pack import Window
from cogen.errors import PolicyError
from cogen.evaluate.matrix import Cell
from cogen.node.known_models import KnownModels
from cogen.node.policy import Policy
from cogen.node.score_book import HeldoutText, ScoreBook, rounded
from cogen.node.usage import Usage
from cogen.runs import append_line

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def usage(folder: Path) -> Usage:
    return Usage(folder / "usage.jsonl", folder / "receipts.jsonl")


def text(num_windows: int = 3, num_tokens: int = 400, num_documents: int = 3) -> HeldoutText:
    windows = [Window(np.full(num_tokens, i, dtype=np.int32), 4 * num_tokens) for i in range(num_windows)]
    return HeldoutText(windows, num_documents)


class Work:
    """A scoring that counts how often it is done."""

    def __init__(self, value: float = 1.23456) -> None:
        self.value, self.num = value, 0

    def __call__(self) -> Cell:
        self.num += 1
        return Cell("m", "grid", self.value, 4812, 1234)


def test_what_was_begun_counts_for_24_hours_and_once(tmp_path: Path) -> None:
    first = usage(tmp_path)
    first.begin("round", "a", NOW)
    first.begin("round", "a", NOW + timedelta(hours=1))
    first.begin("round", "b", NOW + timedelta(hours=2))
    first.begin("figure", "c", NOW)
    again = usage(tmp_path)  # another process
    assert again.begun("round", now=NOW + timedelta(hours=3)) == {"a", "b"}
    assert again.begun("round", now=NOW + timedelta(hours=24, seconds=1)) == {"b"}
    assert again.begun("figure", "round", now=NOW + timedelta(hours=3)) == {"a", "b", "c"}


def test_a_round_counts_each_time_that_it_is_trained_to_its_end(tmp_path: Path) -> None:
    """Red: rounds asked in turns, more of them than replies are kept, were trained again and counted once."""
    counted = usage(tmp_path)
    for is_finished, expected in ((False, 1), (True, 1), (True, 2), (True, 3)):  # the second goes on after a break
        counted.begin("round", counted.count_key("a"))
        assert len(usage(tmp_path).begun("round")) == expected
        if is_finished:
            counted.finish("a")


def test_a_clock_that_is_set_back_resets_nothing(tmp_path: Path) -> None:
    """Red: a count by the date, or of lines up to now."""
    usage(tmp_path).begin("round", "a", NOW)
    for earlier in (timedelta(hours=1), timedelta(days=1), timedelta(days=4000)):
        assert usage(tmp_path).begun("round", now=NOW - earlier) == {"a"}


def test_bytes_are_those_of_the_receipts_of_all_runs(tmp_path: Path) -> None:
    for run, hours, size in (("one", 1, 100), ("two", 2, 20), ("one", 25, 3000)):
        line = {"time": (NOW - timedelta(hours=hours)).isoformat(), "run": run, "kind": "train", "num_bytes": size}
        append_line(tmp_path / "receipts.jsonl", line)
    append_line(tmp_path / "receipts.jsonl", {"layout": "c0", "arrays": []})
    assert usage(tmp_path).bytes_sent(NOW) == 120


@pytest.mark.parametrize(
    ("value", "shown"), [(1.23456, 1.235), (0.000123456, 0.0001235), (12345.6, 12350.0), (0.0, 0.0), (9.99996, 10.0)]
)
def test_four_digits(value: float, shown: float) -> None:
    assert rounded(value) == shown


def test_a_figure_leaves_in_four_digits_and_the_same_one_costs_nothing(tmp_path: Path) -> None:
    work, book = Work(), ScoreBook(Policy(max_scorings_per_day=2), usage(tmp_path), "float32", "scoring")
    for _ in range(9):
        found = ScoreBook(Policy(max_scorings_per_day=2), usage(tmp_path), "float32", "scoring")("m1", text(), work)
        assert found is not None and found.bits_per_byte == 1.235
        assert (found.num_bytes, found.num_tokens) == (4800, 1200)
    assert work.num == 1
    assert book("m2", text(), work) is not None
    assert book("m3", text(), work) is None and work.num == 2


def test_a_model_on_other_windows_or_in_another_precision_is_another_figure(tmp_path: Path) -> None:
    work, policy = Work(), Policy(max_scorings_per_day=3)
    for windows, precision in ((text(), "float32"), (text(4), "float32"), (text(), "bfloat16"), (text(5), "float32")):
        ScoreBook(policy, usage(tmp_path), precision, "scoring")("m", windows, work)
    assert work.num == 3


def test_a_scoring_that_fails_counts(tmp_path: Path) -> None:
    """That it fails says something of the text. Red: counted when it is done."""

    def fails() -> Cell:
        raise ValueError("on this text")

    book = ScoreBook(Policy(max_scorings_per_day=1), usage(tmp_path), "float32", "scoring")
    with pytest.raises(ValueError, match="on this text"):
        book("m1", text(), fails)
    assert book("m2", text(), Work()) is None
    with pytest.raises(PolicyError, match="finite score"):
        ScoreBook(Policy(), usage(tmp_path), "float32", "scoring")("m3", text(), Work(float("nan")))


def test_figures_of_rounds_leave_half_of_the_day_for_models(tmp_path: Path) -> None:
    policy = Policy(max_scorings_per_day=4)
    rounds = ScoreBook(policy, usage(tmp_path), "float32", "round")
    assert [rounds(f"r{i}", text(), Work()) is not None for i in range(4)] == [True, True, False, False]
    models = ScoreBook(policy, usage(tmp_path), "float32", "scoring")
    models.require(["m0", "m1"], text())
    with pytest.raises(PolicyError, match="up to 4 figures of held-out text a day, got 5 with these"):
        models.require(["m0", "m1", "m2"], text())
    assert [models(f"m{i}", text(), Work()) is not None for i in range(3)] == [True, True, False]
    models.require(["m0", "m1", "r0"], text())  # all were given before


@pytest.mark.parametrize(
    ("windows", "enough"),
    [
        (text(3, 342, 3), True),  # 1026 tokens
        (text(3, 341, 3), False),  # 1023
        (text(3, 400, 2), False),  # of two documents
        (text(2, 600, 9), False),  # two windows are of two documents at most
        (text(0), False),
    ],
)
def test_a_figure_is_of_1024_tokens_in_3_documents(tmp_path: Path, windows: HeldoutText, enough: bool) -> None:
    book = ScoreBook(Policy(), usage(tmp_path), "float32", "scoring")
    assert (book("m", windows, Work()) is not None) == enough
    if not enough:
        with pytest.raises(PolicyError, match="1024 tokens in 3 documents"):
            book.require(["m"], windows)


def test_no_figure_leaves_where_the_policy_keeps_them(tmp_path: Path) -> None:
    work = Work()
    assert ScoreBook(Policy(evaluation_leaves=False), usage(tmp_path), "float32", "round")("m", text(), work) is None
    assert work.num == 0


def test_only_models_of_the_run_are_scored_and_one_combined(tmp_path: Path) -> None:
    known = KnownModels(tmp_path / "models.jsonl")
    known.admit("combined", "base", 0)  # it changes nothing
    with pytest.raises(PolicyError, match="a run that this domain has trained in"):
        known.admit("combined", "c1", 0)
    known.add("start", "s1", 1)
    known.add("own", "o1", 1, "key1")
    for name, digest in (("anything", "s1"), ("expert:grid", "o1"), ("combined", "c1"), ("combined", "c1")):
        known.admit(name, digest, 0)
    with pytest.raises(PolicyError, match="a second combined one"):
        known.admit("combined", "c2", 0)
    with pytest.raises(PolicyError, match="more than 0 adapters of other domains"):
        known.admit("expert:ward", "e1", 0)
    known.admit("expert:ward", "e1", 1)
    with pytest.raises(PolicyError, match="more than 1 adapters of other domains"):
        KnownModels(tmp_path / "models.jsonl").admit("expert:other", "e2", 1)
    assert known.own_reply() == "key1"
    known.add("own", "o2", 2, "key2")
    assert known.own_reply() == "key2"
