"""The data card: sums computed by hand, and the checks when it is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cogen.base import Base
from cogen.data.card import (
    GENERAL_SAMPLE,
    Amount,
    CorpusCost,
    DataCard,
    Lengths,
    Part,
    SkippedFile,
    count_words,
    describe_lengths,
    general_tokens_per_word,
)
from cogen.errors import DataError

CARD = DataCard(
    source="notes",
    base="tiny",
    settings={"strict": False, "near_duplicate_jaccard": 0.8},
    heldout_frac=0.05,
    num_files=3,
    read=Amount(12, 9000),
    train=Part(8, 1608, 6400),
    heldout=Part(2, 402, 1600),
    num_words=1600,
    general_tokens_per_word=1.25,
    lengths=describe_lengths([201] * 9 + [1000]),
    sha256="ab" * 32,
    skipped=(SkippedFile("scan.pdf", "it has no text"),),
    num_skipped=1,
    dropped={"exact duplicate": Amount(1, 500), "quality: stop words": Amount(1, 300)},
    languages={"en": 9, "de": 1},
    personal_data={"email": 3},
    cost=CorpusCost(20_480, 100.0, 3.4, 0.268, 601.5, 0.004),
)


def test_sums_by_hand() -> None:
    assert (CARD.num_documents, CARD.num_tokens) == (10, 2010)
    assert CARD.tokens_per_word == (2010 - 10) / 1600
    assert Amount(1, 2) + Amount(3, 4) == Amount(4, 6)
    assert CARD.model_copy(update={"special_per_document": 2}).tokens_per_word == (2010 - 20) / 1600
    assert CARD.model_copy(update={"num_words": 0}).tokens_per_word == 2000, "no division by nothing"


def test_lengths_by_hand() -> None:
    found = describe_lengths([1, 2, 3, 4, 7, 8, 100, 1023, 1024])
    assert found.counts == (1, 2, 2, 1, 0, 0, 1, 0, 0, 1, 1)
    assert found.percentiles == (1, 1, 3, 7, 100, 1024, 1024)
    assert describe_lengths([]) == Lengths((), ())
    assert all(type(n) is int for n in found.percentiles + found.counts)


def test_a_card_reads_back_as_it_was() -> None:
    assert DataCard.from_json(CARD.to_json(), "card.json") == CARD
    bare = CARD.model_copy(update={"cost": None, "skipped": (), "dropped": {}})
    assert DataCard.from_json(bare.to_json(), "card.json") == bare
    assert json.loads(CARD.to_json())["format_version"] == 3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"format_version": 1}, "expected format 3, got format 1"),
        ({"num_files": "3"}, "expected num_files to be a valid integer, got '3'"),
        ({"train": {"num_documents": 1}}, "expected a field train.num_tokens, got none"),
        ({"more": 1}, "expected no field more, got 1"),
        ({"skipped": [["a", "b"]]}, "expected skipped.0 to be a"),
        ({"languages": {"en": 1.5}}, "languages.en to be a valid integer"),
    ],
)
def test_a_card_that_is_none_is_refused(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=r"card\.json") as caught:
        DataCard.from_json(json.dumps(json.loads(CARD.to_json()) | change), "card.json")
    assert expected in str(caught.value)


def test_no_json_and_no_object_are_refused() -> None:
    for text in ("{", "[]", "null"):
        with pytest.raises(DataError):
            DataCard.from_json(text, "card.json")


def test_tokens_per_word_of_general_text(tiny: Base) -> None:
    words, tokens = count_words(GENERAL_SAMPLE), tiny.tokenizer(GENERAL_SAMPLE)["input_ids"]
    assert words == 200
    assert general_tokens_per_word(tiny.tokenizer) == len(tokens) / words > 1
