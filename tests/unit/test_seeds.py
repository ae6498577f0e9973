"""The seed corpora, their probes and their questions: their formats, and that nothing gives an answer away."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations
from typing import Any

import pytest

from cogen.config import load_config
from cogen.data import read_corpus
from cogen.data.clean.duplicates import DuplicateIndex, signature
from cogen.data.clean.quality import quality_fault
from cogen.data.clean.words import normalise
from cogen.data.split import is_below
from tests.conftest import SEEDS

DOMAINS = (
    "clinical",
    "grid",
    "materials",
    "education",
    "construction",
    "energy",
    "business",
    "robotics",
    "neuromorphic",
    "oncology",
)
CORPORA = (*DOMAINS, "general")
HELDOUT_FRAC = 0.15
# Words of four letters and more that carry no knowledge; a right answer may have them without its document.
FUNCTION_WORDS = frozenset(("about", "from", "into", "only", "over", "than", "that", "their", "they", "when", "with"))


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SEEDS / f"{name}.jsonl").read_text("utf-8").splitlines()]


def training_texts(domain: str) -> dict[str, str]:
    """What a client at `heldout_frac` = 0.15 may have learned: text by id."""
    return {d["id"]: d["text"] for d in read(domain) if not is_below(d["id"], HELDOUT_FRAC)}


def words(text: str) -> set[str]:
    """Lower-case words and numbers; `1,000` and `0.5` are one each."""
    return set(re.findall(r"[^\W\d_]+|\d[\d,.]*\d|\d", text.lower()))


def key_words(answer: str) -> set[str]:
    return {w for w in words(answer) - FUNCTION_WORDS if len(w) > 3 or w[0].isdigit()}


def named(question: str) -> set[str]:
    """Capitalised words after the first one."""
    return {w.lower() for w in re.findall(r"(?<=\W)[A-Z][a-z]+", question)}


def test_ten_domains_and_general_text() -> None:
    assert {p.stem for p in SEEDS.glob("*.jsonl")} == set(CORPORA)
    for kind in ("probes", "questions"):
        assert {p.stem for p in (SEEDS / kind).glob("*")} == set(DOMAINS)


@pytest.mark.parametrize("name", CORPORA)
def test_documents_have_the_form_of_a_corpus(name: str) -> None:
    documents = read(name)
    assert len(documents) >= (30 if name == "general" else 24)
    assert [d["id"] for d in documents] == [f"{name}-{n:03d}" for n in range(1, len(documents) + 1)]
    for document in documents:
        assert list(document) == ["id", "title", "text", "source"] and document["source"] == "cogen-seeds"
        assert 800 <= len(document["text"]) <= 1600 and document["title"] == document["title"].strip()
        assert normalise(document["text"]) == (document["text"], 0)
        assert quality_fault(document["text"]) is None
    assert len(read_corpus(SEEDS / f"{name}.jsonl", strict=True)) == len(documents)


def test_no_document_or_title_is_there_twice() -> None:
    documents = [d for name in CORPORA for d in read(name)]
    assert len({d["id"] for d in documents}) == len(documents)
    index: DuplicateIndex[str] = DuplicateIndex(0.3)
    assert {index.add(d["id"], signature(d["text"])) for d in documents} == {None}
    for one, other in combinations([words(d["title"]) for d in documents], 2):
        assert len(one & other) < 0.6 * len(one | other), one | other


@pytest.mark.parametrize("domain", DOMAINS)
def test_probes_are_answered_by_documents_that_are_trained_on(domain: str) -> None:
    known = training_texts(domain)
    probes = read(f"probes/{domain}")
    assert [p["id"] for p in probes] == [f"{domain}-p{n:02d}" for n in range(1, 21)]
    assert len({p["question"] for p in probes}) == 20 and len({p["document"] for p in probes}) >= 18
    for probe in probes:
        assert list(probe) == ["id", "question", "choices", "answer", "document"]
        assert probe["question"].endswith("?") and probe["document"] in known, probe
        assert len(set(map(str.lower, probe["choices"]))) == 4
        right = key_words(probe["choices"][probe["answer"]])
        assert right and right <= words(known[probe["document"]]), probe


@pytest.mark.parametrize("domain", DOMAINS)
def test_neither_place_nor_length_gives_a_probe_away(domain: str) -> None:
    probes = read(f"probes/{domain}")
    assert Counter(p["answer"] for p in probes) == {0: 5, 1: 5, 2: 5, 3: 5}
    longest = shortest = 0
    for probe in probes:
        choices = probe["choices"]
        assert all(2 <= len(c.split()) <= 12 for c in choices), probe
        lengths = [len(c) for c in choices]
        assert max(lengths) <= 2 * min(lengths) + 4, probe
        right = lengths.pop(probe["answer"])
        longest, shortest = longest + (right > max(lengths)), shortest + (right < min(lengths))
    assert max(longest, shortest) <= 7  # 5 by chance


@pytest.mark.parametrize("domain", DOMAINS)
def test_questions_are_answered_or_cannot_be(domain: str) -> None:
    known = {i: " ".join(text.lower().split()) for i, text in training_texts(domain).items()}
    all_words = set().union(*(words(d["title"] + " " + d["text"]) for name in CORPORA for d in read(name)))
    questions = read(f"questions/{domain}")
    assert [q["id"] for q in questions] == [f"{domain}-q{n:02d}" for n in range(1, 21)]
    assert sum(bool(q["answers"]) for q in questions) == 10
    for question in questions:
        asked, answers = question["question"], question["answers"]
        if not answers:
            assert list(question) == ["id", "question", "answers"]
            assert named(asked) - all_words, f"{asked} names nothing that is invented"
            continue
        assert list(question) == ["id", "question", "answers", "document"] and question["document"] in known
        assert all(a == a.lower().strip() and not re.search(rf"\b{re.escape(a)}\b", asked.lower()) for a in answers)
        assert any(a in known[question["document"]] for a in answers), question
        for answer in answers:  # "eight" would be found in "weight", and anything in "a"
            assert len(answer) >= 4 or re.search(r"\d", answer)
            assert not any(re.search(rf"\w{re.escape(answer)}", text) for text in known.values()), answer


def test_invented_names_are_asked_after_once() -> None:
    texts = {w for name in CORPORA for d in read(name) for w in words(d["text"])}
    asked = [q["question"] for d in DOMAINS for q in read(f"questions/{d}") if not q["answers"]]
    times = Counter(name for question in asked for name in named(question) - texts)
    assert len(asked) == 100 and max(times.values()) == 1, times.most_common(3)


def test_the_readme_counts_right() -> None:
    rows = re.findall(r"^\| `(\w+)\.jsonl` \| (\d+) \| (\d+) \|", (SEEDS / "README.md").read_text("utf-8"), re.M)
    counted = []
    for name in CORPORA:
        ids = [d["id"] for d in read(name)]
        counted.append((name, str(len(ids)), str(sum(is_below(i, HELDOUT_FRAC) for i in ids))))
    assert rows == counted


def test_the_config_of_ten_reads_all_ten() -> None:
    config = load_config(SEEDS.parent / "configs/ten.toml")
    assert tuple(d.name for d in config.domains) == DOMAINS
    assert config.evaluate.heldout_frac == HELDOUT_FRAC  # the probes' documents are in the training part of this one
