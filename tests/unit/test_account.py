"""What became of a corpus, in one line, and the refusal where too much of it is lost.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cogen.base import Base
from cogen.config import Data
from cogen.data import read_corpus
from cogen.data.account import Account, tell_losses
from cogen.errors import DataError
from cogen.train.corpus import prepare_corpus

PLAIN = Data(boilerplate=False, quality=False, near_duplicates=False, leakage=False)


def account(base: Base, path: Path, **settings: object) -> Account:
    return Account.of_card(prepare_corpus(base, path, PLAIN.model_copy(update=settings)).card)


def notes(path: Path, num: int, first: int = 0) -> Path:
    """Documents of 100 bytes on lines of 127: `{"id": "0000", "text": "..."}` and a line feed."""
    lines = [json.dumps({"id": f"{n:04}", "text": f"note {n:05} ".ljust(100, "x")}) for n in range(first, first + num)]
    assert {len(line) + 1 for line in lines} == {127}
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_corpus_that_is_read_whole_loses_nothing(tiny: Base, tmp_path: Path) -> None:
    found = account(tiny, notes(tmp_path / "a.jsonl", 10))
    assert str(found) == "10 documents read (1,000 bytes); nothing skipped or dropped"
    assert found.loss_frac == 0.0


def test_the_share_lost_is_that_of_the_files_bytes(tiny: Base, tmp_path: Path) -> None:
    """Three quarters of lines, and a file without a reader. Red: a count of documents."""
    path = notes(tmp_path / "a.jsonl", 10)
    path.write_text(path.read_text() + ("x" * 126 + "\n") * 20)
    (tmp_path / "b.odt").write_bytes(b"x" * 1270)
    (tmp_path / "c.png").write_bytes(b"x" * 10**6)
    found = account(tiny, tmp_path)
    assert found.loss_frac == 0.75 and found.num_skipped == 22
    assert "skipped 22: " in str(found) and "and 19 more" in str(found) and str(found).endswith("75% of the text lost")


def test_dropped_documents_are_lost_and_exact_copies_are_not(tiny: Base, tmp_path: Path) -> None:
    path = notes(tmp_path / "a.jsonl", 8)
    copies = [json.dumps({"id": f"c{n}", "text": f"note {n:05} ".ljust(100, "x")}) for n in range(8)]
    path.write_text(path.read_text() + "\n".join(copies) + "\n")
    found = account(tiny, path)
    assert (found.loss_frac, dict(found.dropped)) == (0.0, {"exact duplicate": 8})
    junk = "#" * 98 + " b"
    path.write_text(path.read_text() + json.dumps({"id": "junk", "text": junk}) + "\n")
    kept = [
        f"The note of page {chr(97 + n) * 5} is to be read and it was filed with that of the crew." for n in range(8)
    ]
    path.write_text(path.read_text() + "".join(json.dumps({"text": text}) + "\n" for text in kept))
    found = account(tiny, path, quality=True)
    dropped = 8 * 100 + len(junk)
    assert found.dropped["exact duplicate"] == 8 and sum(found.dropped.values()) == 8 + 9
    assert found.loss_frac == pytest.approx(dropped / (dropped + sum(map(len, kept))))


def test_what_cleaning_removes_of_a_kept_document_is_lost(tiny: Base, tmp_path: Path) -> None:
    """Red: a loss of dropped documents alone."""
    foot = "This line of forty letters is on each one"
    texts = [f"A note of its own, of {chr(97 + n) * 9}, on what was seen.\n{foot}" for n in range(20)]
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"id": str(n), "text": t}) + "\n" for n, t in enumerate(texts))
    )
    whole = len(texts[0])
    assert account(tiny, tmp_path, boilerplate=True).loss_frac == pytest.approx((len(foot) + 1) / whole)


def test_a_corpus_without_cleaning_has_an_account_too(tmp_path: Path) -> None:
    path = notes(tmp_path / "a.jsonl", 3)
    path.write_text(path.read_text() + "{\n")
    found = Account.of_corpus(read_corpus(path), str(path))
    assert (found.num_documents, found.num_bytes, found.num_skipped) == (3, 300, 1)
    assert found.loss_frac == 2 / (3 * 127 + 2)


def test_too_much_loss_is_refused_and_everything_is_told_before(tmp_path: Path) -> None:
    good = Account("a", 9, 900, (), 0, {}, 0.0)
    bad = Account("b", 9, 900, (("scan.pdf, pages 2-10", "9 of 10 pages without text"),), 1, {}, 0.9)
    told: list[str] = []
    tell_losses({"a": good, "b": bad}, 0.9, lambda name, _: told.append(name))
    assert told == ["a", "b"]
    with pytest.raises(DataError) as caught:
        tell_losses({"a": good, "b": bad}, 0.1, lambda name, _: told.append(name))
    line = str(caught.value)
    assert "expected at most 10% of its text" in line and "got 90%" in line and "--accept-loss" in line
    assert "scan.pdf" not in line and told == ["a", "b"] * 2, "it was told before"
    with pytest.raises(DataError, match=r"scan\.pdf, pages 2-10: 9 of 10 pages without text"):
        tell_losses({"a": good, "b": bad}, 0.1)
