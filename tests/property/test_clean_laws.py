"""Laws of cleaning: it is idempotent, and no redacted text remains."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from cogen.data.clean import normalise, personal_data, redact, signature, strip_boilerplate
from cogen.data.clean.duplicates import similarity

NUMBERS = "+44 20 7946 0958|212-555-1234|4111 1111 1111 1111|536-90-4399|DE89 3704 0044 0532 0130 00|943 476 5919"
PIECES = "jane@example.org|111222333|12345678Z|tel|NHS|BSN |@|+|-| |4|11|/|(0)"
VALUES = st.sampled_from([*NUMBERS.split("|"), *PIECES.split("|")])
MIXED = st.lists(st.one_of(VALUES, st.text(max_size=3)), max_size=12).map("".join)
LINES = st.lists(
    st.sampled_from(["Head of all pages", "page 3", "4", "A line.", "and so on", "", "\f", "x " * 150]), max_size=30
)


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
def test_a_text_is_like_itself(text: str) -> None:
    assert similarity(signature(text), signature(text)) == 1.0
