"""Laws of cleaning: it is idempotent, and no redacted text remains."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from cogen.data.clean import (
    normalise,
    personal_data,
    quality_fault,
    redact,
    signature,
    split_words,
    strip_boilerplate,
)
from cogen.data.clean.duplicates import similarity
from cogen.data.clean.quality import RULES

NUMBERS = "+44 20 7946 0958|212-555-1234|4111 1111 1111 1111|536-90-4399|DE89 3704 0044 0532 0130 00|943 476 5919"
PIECES = "jane@example.org|111222333|12345678Z|tel|NHS|BSN |@|+|-| |4|11|/|(0)"
VALUES = st.sampled_from([*NUMBERS.split("|"), *PIECES.split("|")])
MIXED = st.lists(st.one_of(VALUES, st.text(max_size=3)), max_size=12).map("".join)
EDGES = [
    "Head of all pages",
    "page 3",
    "1",
    "2",
    "3",
    "- 4 -",
    "iii",
    "٣",
    "ACME Manual ",
    " 2",
    "Dose 5 mg",
    "A line.",
    "and so on",
    "",
    "\x0c",
    "\x0c",
]
LINES = st.lists(st.one_of(st.sampled_from([*EDGES, "a  b | 3", "x " * 150]), st.text(max_size=8)), max_size=30)


@given(st.text())
def test_normalise_is_idempotent(text: str) -> None:
    once, _ = normalise(text)
    assert normalise(once) == (once, 0)
    assert unicodedata.is_normalized("NFC", once)


@given(MIXED)
def test_redacting_leaves_nothing_and_doing_it_again_changes_nothing(text: str) -> None:
    redacted, counts = redact(text)
    assert redact(redacted) == (redacted, {}) and personal_data(redacted) == {}
    assert (redacted == text) == (counts.total() == 0)
    assert personal_data(text) == counts


@given(LINES.map("\n".join))
def test_stripping_only_takes_lines_away(text: str) -> None:
    stripped, num_lines = strip_boilerplate(text)
    before = [line.strip() for line in text.replace("\f", "\n").split("\n") if line.strip()]
    after = [line.strip() for line in stripped.split("\n") if line.strip()]
    assert len(before) - len(after) == num_lines
    rest = iter(before)
    assert all(line in rest for line in after), "in order"
    assert "\f" not in stripped


@given(st.text())
def test_words_are_parts_of_the_text_in_order_and_no_letter_is_missed(text: str) -> None:
    rest = text
    for word in split_words(text):
        before, found, rest = rest.partition(word)
        assert found and not any(map(str.isalnum, before))
    assert not any(map(str.isalnum, rest))


@given(st.text())
def test_every_text_is_good_or_fails_a_rule(text: str) -> None:
    fault = quality_fault(text)
    assert fault is None or fault.rule in RULES


@given(st.text())
def test_a_text_is_like_itself(text: str) -> None:
    assert similarity(signature(text), signature(text)) == 1.0
