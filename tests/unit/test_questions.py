"""Replies scored by hand, and the rates computed from them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cogen.errors import DataError
from cogen.evaluate.generate import Generated
from cogen.evaluate.questions import EXAMPLES, Question, few_shot_prompt, grade_reply, read_questions, sum_up

GOOD = {"id": "q1", "question": "At what frequency?", "answers": ["50 hz", "fifty hertz"], "document": "grid-001"}


def write(folder: Path, *rows: object) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return path


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("50 Hz", "right"),
        ("It is **50 Hz**.", "right"),
        ("Fifty-hertz", "right"),
        ("\uff15\uff10\u3000\uff28\uff5a", "right"),  # full width
        ("I do not know, perhaps 50 Hz", "right"),
        ("150 Hz", "wrong"),
        ("50 Hzs", "wrong"),
        ("I do not know.", "abstained"),
        ("I don't know", "abstained"),
        ("This cannot be determined from the text", "abstained"),
        ("UNKNOWN", "abstained"),
        ("", "abstained"),
        (" -- ", "abstained"),
        ("The unknowns are two", "wrong"),
        ("60 Hz", "wrong"),
    ],
)
def test_replies(reply: str, verdict: str) -> None:
    assert grade_reply(reply, ["50 hz", "fifty hertz"]) == verdict


@pytest.mark.parametrize(
    ("reply", "answer", "verdict"),
    [
        ("Thyristors.", "thyristor", "right"),
        ("a photothyristor", "thyristor", "wrong"),
        ("thyristor valves", "thyristor valve", "right"),
        ("50", "5", "wrong"),
        ("gold", "go", "wrong"),
        ("2023 and on", "202", "wrong"),
        ("\u96fb\u529b\u7db2", "\u96fb\u529b", "right"),
    ],
)
def test_where_an_answer_may_end(reply: str, answer: str, verdict: str) -> None:
    assert grade_reply(reply, [answer]) == verdict


def test_no_reply_to_an_unanswerable_question_is_right() -> None:
    assert [grade_reply(reply, []) for reply in ("50 Hz", "I do not know.")] == ["wrong", "abstained"]


def test_rates_by_hand() -> None:
    """Five answerable (2 right, 1 abstained, 2 wrong), three unanswerable (2 made up)."""
    questions = [Question(str(i), "?", ("yes",)) for i in range(5)] + [Question(f"u{i}", "?", ()) for i in range(3)]
    texts = ["yes", "Yes!", "I do not know.", "no", "never", "blue", "Not known.", "yes"]
    chances = [(0.9, 0.7), (0.5,), (1.0, 1.0), (0.4,), (0.3,), (0.6,), (1.0,), (0.8, 0.2)]
    replies = [Generated(t, tuple(math.log(c) for c in some)) for t, some in zip(texts, chances, strict=True)]
    found = sum_up(questions, replies, "base", "grid")
    assert (found.model, found.domain, found.num_answerable, found.num_unanswerable) == ("base", "grid", 5, 3)
    assert (found.right_frac, found.abstained_frac, found.wrong_frac) == pytest.approx((0.4, 0.2, 0.4))
    assert found.made_up_frac == pytest.approx(2 / 3)
    confidence = (0.8 + 0.5 + 0.4 + 0.3 + 0.6 + 0.5) / 6
    assert found.confidence_frac == pytest.approx(confidence)
    assert found.overconfidence_frac == pytest.approx(confidence - 2 / 6)


def test_rates_of_no_questions_are_none() -> None:
    silent = sum_up([Question("u", "?", ())], [Generated("", ())], "base", "grid")
    assert (silent.right_frac, silent.wrong_frac, silent.made_up_frac) == (None, None, 0.0)
    assert (silent.confidence_frac, silent.overconfidence_frac) == (None, None)


def test_the_prompt_shows_that_one_may_not_know() -> None:
    prompt = few_shot_prompt("At what frequency?")
    assert prompt.endswith("\n\nQuestion: At what frequency?\nAnswer:")
    assert "\nAnswer: I do not know.\n\n" in prompt
    assert prompt.count("Question: ") == len(EXAMPLES) + 1
    assert sum(grade_reply(answer, []) == "abstained" for _, answer in EXAMPLES) == 1


def test_files(tmp_path: Path) -> None:
    found = read_questions(write(tmp_path, GOOD, {"id": "q2", "question": "Who ate it?", "answers": []}))
    assert found == (
        Question("q1", "At what frequency?", ("50 hz", "fifty hertz"), "grid-001"),
        Question("q2", "Who ate it?", ()),
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"question": ""}, "question as text, got ''"),
        ({"answers": None}, "answers as a list of texts, got None"),
        ({"answers": ["  "]}, "answers as a list of texts"),
        ({"answers": ["%"]}, "answers with a letter or a digit, got '%'"),
        ({"id": "q1"}, "each id once"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError, match=r"cannot read questions: .*questions\.jsonl, line 2\)") as caught:
        read_questions(write(tmp_path, GOOD, {**GOOD, "id": "q2", **change}))
    assert complaint in str(caught.value)
