"""The data card as text and page: it has the numbers, none of the text, and escaped names."""

from __future__ import annotations

import re

from cogen.data.card import Amount, SkippedFile, describe_lengths
from cogen.report.card import card_page, card_text, fate_chart, findings, language_chart, length_chart
from cogen.report.columns import column_chart, share_chart
from tests.unit.test_data_card import CARD


def rectangles(svg: str) -> list[tuple[float, float]]:
    return [(float(w), float(h)) for w, h in re.findall(r'<rect [^>]*width="([\d.]+)" height="([\d.]+)"', svg)]


def test_columns_are_as_high_as_their_counts() -> None:
    sizes = rectangles(column_chart([("1", 10), ("2", 0), ("4", 40)], "tokens", "documents", 880, "Lengths"))
    assert [h for _, h in sizes] == [sizes[2][1] / 4, 0, sizes[2][1]] and sizes[2][1] > 150


def test_bars_are_as_long_as_their_counts_and_name_their_share() -> None:
    svg = share_chart([("a", 30, "better"), ("<b>", 10, "worse"), ("none", 0, "worse")], 50, 880, "Fate")
    widths = [w for w, _ in rectangles(svg)]
    assert abs(widths[0] - 3 * widths[1]) < 0.2 and widths[2] == 0
    assert "30 · 60.0%" in svg and "&lt;b&gt;" in svg and "<b>" not in svg


def test_text_has_the_numbers() -> None:
    text = card_text(CARD)
    for part in (
        "1,608 tokens to train on in 8 documents",
        "402 held out in 2 documents",
        "1.25 (everyday English 1.25)",
    ):
        assert part in text
    assert re.search(r"exact duplicate +1 \(8.3%\)", text) and re.search(r"scan.pdf +it has no text", text)
    assert CARD.sha256 in text
    assert "201 tokens" in text and "1,000 tokens" in text and re.search(r"rate +100 tokens/s", text)


def test_findings_say_what_was_done() -> None:
    (personal,) = findings(CARD)
    assert personal == "Personal data: 3 email (kept; --redact replaces them)."
    done = CARD.model_copy(
        update={"settings": {"redact": True, "leakage": False}, "num_leaked": 1, "general_tokens_per_word": 0.8}
    )
    redacted, leaked, pieces = findings(done)
    assert "(replaced)" in redacted and "1 document nearly repeats" in leaked and "too good" in leaked
    assert "many pieces" in pieces


def test_findings_say_which_scripts_have_rules_of_their_own() -> None:
    card = CARD.model_copy(
        update={"personal_data": {}, "scripts": {"Latin": 7, "Thai": 2, "Hangul": 3, "Han": 1, "Cyrillic": 4}}
    )
    syllables, letters = findings(card)
    assert syllables.endswith("of their script: 3 in Hangul.")
    assert letters.startswith("Quality rules: documents measured by letter") and letters.endswith(
        ": 2 in Thai, 1 in Han."
    )


def test_the_page_stands_alone_and_escapes() -> None:
    page = card_page(
        CARD.model_copy(
            update={"source": "<script>alert(1)</script>", "skipped": (SkippedFile("<i>.pdf", "no & text"),)}
        )
    )
    assert "<script" not in page and "&lt;script&gt;" in page and "&lt;i&gt;.pdf" in page and "no &amp; text" in page
    assert not re.search(r'(?:src|href)="', page) and "@media print" in page and "prefers-color-scheme: dark" in page
    assert "email" in page and CARD.sha256 in page and "near_duplicate_jaccard" in page


def test_charts_of_little_or_nothing() -> None:
    nothing = {"languages": {}, "dropped": {}, "personal_data": {}, "cost": None, "skipped": (), "num_skipped": 0}
    bare = CARD.model_copy(update={"lengths": describe_lengths([]), **nothing})
    assert length_chart(bare) is None and language_chart(bare) is None
    assert fate_chart(bare).wide.count("<rect") == 2
    assert "Training cost" not in card_page(bare) and "Personal data" not in card_page(bare)
    assert "Skipped" not in card_text(bare)


def test_what_was_skipped_is_counted_beyond_the_list() -> None:
    """Red: the length of the list."""
    many = tuple(SkippedFile(f"{n}.odt", "no reader") for n in range(25))
    card = CARD.model_copy(update={"skipped": many, "num_skipped": 1234})
    text, page = card_text(card), card_page(card)
    assert re.search(r"skipped +1,234\n", text) and re.search(r"\.\.\. +and 1,214 more", text)
    assert "<dt>skipped</dt><dd>1,234</dd>" in page and "And 1,209 more." in page
    few = CARD.model_copy(update={"skipped": many[:3], "num_skipped": 3})
    assert "more" not in card_text(few) and "more." not in card_page(few)


def test_rare_languages_stand_together() -> None:
    languages = {f"l{n}": 20 - n for n in range(15)}
    chart = language_chart(CARD.model_copy(update={"languages": languages}))
    assert chart is not None and "others" in chart.wide and "21 · " in chart.wide, "8 + 7 + 6"


def test_the_largest_reason_comes_first() -> None:
    chart = fate_chart(CARD.model_copy(update={"dropped": {"small": Amount(1, 1), "large": Amount(5, 1)}}))
    assert chart.wide.index("large") < chart.wide.index("small")
