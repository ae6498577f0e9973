"""Cloze probes: which terms are asked for, and which other choices are allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cogen.data import Document, read_corpus
from cogen.errors import DataError
from cogen.evaluate.cloze import make_probes, probes_jsonl
from cogen.evaluate.probes import read_probes
from cogen.evaluate.terms import candidates, common_words, domain_terms, sentences

SEEDS = Path(__file__).parents[2] / "seeds"


@pytest.fixture(scope="module")
def grid() -> tuple[Document, ...]:
    return read_corpus(SEEDS / "grid.jsonl").documents


@pytest.fixture(scope="module")
def general() -> tuple[Document, ...]:
    return read_corpus(SEEDS / "education.jsonl").documents


def test_sentences() -> None:
    text = "It fell to 0.5 Hz. Then it rose! (See Fig. 2.)\n\nA title\nWhy? the last, e.g. this one."
    assert sentences(text) == [
        "It fell to 0.5 Hz.",
        "Then it rose! (See Fig.",
        "2.)",
        "A title",
        "Why? the last, e.g. this one.",
    ]


def test_candidates_are_words_and_neighbours_without_common_ones() -> None:
    sentence = "The phase-to-phase fault current, however, trips relays"
    found = [p.text[p.start : p.end] for p in candidates(sentence, frozenset({"however"}))]
    assert found == [
        "phase-to-phase",
        "phase-to-phase fault",
        "fault",
        "fault current",
        "current",
        "trips",
        "trips relays",
        "relays",
    ]


def test_terms_by_hand() -> None:
    """(1 + ln tf) * idf; what is in all general texts, in a common word or too rare is no term."""
    domain = ["relay relay relay relay shown shown shown shown shown everywhere", "relay outage outage outage typo"]
    filler = " ".join(f"{a}{b}word{a}{b}" for a in "abcdefghijklmnopqrst" for b in "abcdefghijklmnopqrst")
    general = [f"{filler} {filler} shown", f"{filler} {filler} outage"]
    assert "shown" not in common_words(general)
    # 2.61 * ln 3, 2.39 * ln 3, 2.10 * ln 3, 2.61 * ln 1.5, 2.10 * ln 1.5; by tf alone "shown" would tie with "relay"
    assert domain_terms(domain, general, 10) == {
        "relay": 5,
        "shown shown": 4,
        "relay relay": 3,
        "shown": 5,
        "outage": 3,
    }
    assert list(domain_terms(domain, general, 10)) == ["relay", "shown shown", "relay relay", "shown", "outage"]
    assert domain_terms(domain, [g + " shown outage" for g in general], 10).keys().isdisjoint({"shown", "outage"})
    assert list(domain_terms(domain, general, 1)) == ["relay"]


def test_probes_keep_their_promises(grid: tuple[Document, ...], general: tuple[Document, ...]) -> None:
    probes = make_probes(grid, general, 60, 400, seed=0)
    texts = {d.id: d.text for d in grid}
    assert len(probes) > 20
    assert len({p.id for p in probes}) == len({p.context for p in probes}) == len(probes)
    for p in probes:
        right = p.choices[p.answer]
        assert len(set(p.choices)) == 4
        assert f"{p.context} {right}" in texts[p.document]
        assert right.casefold() not in p.context.casefold()
        assert len(p.context.split()) >= 6
        for other in p.choices:
            assert len(other.split()) == len(right.split())
            assert other[0].isupper() == right[0].isupper()
            assert other.endswith("s") == right.endswith("s") or other.endswith("ss") or right.endswith("ss")
            assert other == right or other.casefold() not in p.context.casefold()
        assert len({c.casefold()[:5] for c in p.choices}) == 4
    uses = [p.choices[p.answer].casefold() for p in probes]
    assert max(uses.count(term) for term in uses) == 2
    assert {p.answer for p in probes} == {0, 1, 2, 3}


def test_the_seed_decides_and_nothing_else(grid: tuple[Document, ...], general: tuple[Document, ...]) -> None:
    assert make_probes(grid, general, 20, 400, seed=0) == make_probes(grid, general, 20, 400, seed=0)
    assert make_probes(grid, general, 20, 400, seed=0) != make_probes(grid, general, 20, 400, seed=1)
    assert len(make_probes(grid, general, 7, 400, seed=0)) == 7


def test_the_file_is_read_back(grid: tuple[Document, ...], general: tuple[Document, ...], tmp_path: Path) -> None:
    probes = make_probes(grid, general, 10, 400, seed=0)
    (tmp_path / "p.jsonl").write_text(probes_jsonl(probes), "utf-8")
    assert list(read_probes(tmp_path / "p.jsonl")) == probes
    assert "question" not in json.loads(probes_jsonl(probes).splitlines()[0])


def test_text_without_terms_is_refused(general: tuple[Document, ...]) -> None:
    with pytest.raises(DataError, match=r"cannot make probes: .*got 0 terms in 1 documents"):
        make_probes([Document("a", "", "Nothing is said twice here.", "")], general, 5, 100, seed=0)
