"""Characters, words, languages, boilerplate: what is removed and what must stay."""

from __future__ import annotations

import json

import pytest

from cogen.data.clean import (
    BoilerplateCounter,
    boilerplate,
    detect_language,
    join_pages,
    normalise,
    split_words,
    strip_boilerplate,
)
from cogen.data.clean.scripts import script_of
from tests.conftest import DOMAINS, SEEDS

GERMAN = "Die Frequenz im Verbundnetz sinkt, wenn ein großes Kraftwerk ausfällt, und die Regler öffnen die Ventile."


@pytest.mark.parametrize(
    ("text", "clean", "num_removed"),
    [
        ("cafe\u0301", "caf\u00e9", 0),
        ("a\r\nb\rc\x85d\u2028e", "a\nb\nc\nd\ne", 0),
        ("\ufeffa\x00b\x1bc\u200bd\x9f", "abcd", 5),
        ("tab\tfeed\fline\n", "tab\tfeed\fline\n", 0),
        ("می\u200cخواهم", "می\u200cخواهم", 0),
        ("a\u00a0b", "a\u00a0b", 0),
    ],
    ids=["composed", "line ends", "invisible", "kept", "joiner", "no-break space"],
)
def test_characters(text: str, clean: str, num_removed: int) -> None:
    assert normalise(text) == (clean, num_removed)


def test_words_of_spaced_and_unspaced_scripts() -> None:
    assert split_words("3.5 kV, l'eau: 电网abc") == ["3", "5", "kV", "l", "eau", "电", "网", "abc"]
    assert not script_of("电网的频率下降 (50 Hz)")[1].has_spaces
    assert script_of("The sign 电 means electricity")[0] == "Latin" and script_of("")[1].has_spaces


@pytest.mark.parametrize(
    ("text", "code"),
    [(GERMAN, "de"), ("The frequency falls when a large plant trips offline.", "en"), ("50 60 70 Hz", "und")],
)
def test_languages(text: str, code: str) -> None:
    assert detect_language(text) == code


def pages(*bodies: str, header: str = "ACME Grid Manual", footer: str = "Page {} of 4") -> str:
    return "\f".join(f"{header}\n{body}\n\n{footer.format(n)}\n" for n, body in enumerate(bodies, start=1))


def test_running_headers_and_page_numbers_go_from_every_page() -> None:
    text = pages("Introduction\nOne ends.", "Two goes on", "and three ends.", "Four")
    assert strip_boilerplate(text) == ("Introduction\nOne ends.\n\nTwo goes on\nand three ends.\n\nFour", 8)


def test_a_bare_page_number_goes_and_a_year_in_the_text_stays() -> None:
    text = "\f".join(f"In {'x' * n} it was\n1987\nand then {'y' * n}.\n- {n} -" for n in range(1, 6))
    stripped, num_lines = strip_boilerplate(text)
    assert num_lines == 5 and stripped.count("1987") == 5 and "- 3 -" not in stripped


def test_two_pages_are_too_few_to_tell() -> None:
    text = pages("One.", "Two.")
    assert strip_boilerplate(text)[1] == 0


def test_a_table_that_fills_pages_stays() -> None:
    """Rules have no letter; rows of numbers are no page numbers."""
    page = "|---|---|---|\n1.5 2.5 3.5\n123456 7\n|---|---|---|"
    assert strip_boilerplate("\f".join([page] * 5))[1] == 0


def test_a_heading_on_a_quarter_of_the_pages_stays() -> None:
    bodies = [f"{'Summary' if n % 4 == 0 else f'Part {chr(97 + n)}'}\nText {chr(97 + n)} of it." for n in range(16)]
    stripped, _ = strip_boilerplate(pages(*bodies))
    assert stripped.count("Summary") == 4 and "ACME" not in stripped


def test_pages_are_joined_where_a_sentence_goes_on() -> None:
    assert join_pages("The pump\fstops.\fThen\f\fit starts") == "The pump\nstops.\n\nThen\nit starts"
    assert join_pages("no page\n\nat all ") == "no page\n\nat all "


def counted(texts: list[str]) -> frozenset[int]:
    counter = BoilerplateCounter()
    for text in texts:
        counter.add(text)
    return counter.repeated()


def notes(count: int, first: str = "Copyright 2024 St Mary Hospital Trust", last: str = "") -> list[str]:
    return [f"{first.format(n)}\n\nNote {chr(97 + n)} says so.\n\n{last}" for n in range(count)]


def test_a_line_on_ten_documents_edges_goes_and_on_nine_stays() -> None:
    ten, nine = notes(10), notes(9)
    assert strip_boilerplate(ten[3], counted(ten)) == ("Note d says so.", 1)
    assert strip_boilerplate(nine[3], counted(nine)) == (nine[3], 0)


@pytest.mark.parametrize(
    "heading",
    ["Introduction", "Materials and methods", "## Reason for referral and history", "| a b | c d | e f | g |"],
)
def test_headings_that_many_documents_share_stay(heading: str) -> None:
    texts = notes(30, first=heading)
    assert strip_boilerplate(texts[7], counted(texts)) == (texts[7], 0)


def test_a_shared_line_behind_text_of_the_document_stays() -> None:
    shared = "See the attached consent form"
    texts = [f"Note {chr(97 + n)}.\n{shared}\nMore on {chr(97 + n)}." for n in range(20)]
    assert strip_boilerplate(texts[0], counted(texts)) == (texts[0], 0)


def test_copies_of_a_document_make_no_boilerplate() -> None:
    text = "All of this is one short document\nthat was put here many times"
    assert counted([text] * 50) == frozenset()


def test_counters_add_up_and_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = notes(40)
    whole, left, right = BoilerplateCounter(), BoilerplateCounter(), BoilerplateCounter()
    for n, text in enumerate(texts):
        whole.add(text)
        (left if n < 5 else right).add(text)
    left.merge(right)
    assert left.repeated() == whole.repeated() and len(whole.repeated()) == 1 and left.num_documents == 40
    monkeypatch.setattr(boilerplate, "MOST_LINES", 20)
    small = BoilerplateCounter()
    for n, text in enumerate(texts * 5):
        small.add(f"{text}\nIts own line number {chr(0x4E00 + n)} in words")
    assert len(small._counts) <= 40 and small.repeated() == whole.repeated()


def test_the_seeds_keep_every_character() -> None:
    texts = [json.loads(line)["text"] for d in DOMAINS for line in (SEEDS / f"{d}.jsonl").read_text().splitlines()]
    repeated = counted(texts)
    for text in texts:
        assert normalise(text) == (text, 0) and strip_boilerplate(text, repeated) == (text, 0)
