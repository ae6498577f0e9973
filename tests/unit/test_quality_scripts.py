"""The quality rules in many scripts: prose stays, short or long, on one line or on many; junk goes."""

from __future__ import annotations

import random
import textwrap
from itertools import pairwise

import pytest

from cogen.data.clean import normalise, quality_fault, split_words
from cogen.data.clean.scripts import script_of
from tests.prose import PROSE

UNSPACED = ("Burmese", "Chinese", "Japanese", "Khmer", "Lao", "Thai")


def sentences(language: str) -> list[str]:
    return normalise(PROSE[language])[0].split("\n")


def wrapped(text: str, width: int = 40) -> str:
    """The text in short lines, as mail and PDF have them."""
    return "\n".join(textwrap.wrap(text, width, break_on_hyphens=False))


@pytest.mark.parametrize("language", PROSE)
def test_prose_passes(language: str) -> None:
    parts = sentences(language)
    documents = {
        "two sentences": " ".join(parts[:2]),
        "two lines": "\n".join(parts[:2]),
        "one line": " ".join(parts),
        "lines": "\n".join(parts),
        "paragraphs": "\n\n".join(parts),
        "wrapped": wrapped(" ".join(parts)),
        "with a heading": f"# {parts[0][:20]}\n\n{' '.join(parts)}",
        "with numbers": " ".join(f"{part} ({n + 1} MW, 50.0{n} Hz)" for n, part in enumerate(parts)),
    }
    faults = {name: str(fault) for name, text in documents.items() if (fault := quality_fault(text))}
    assert not faults


@pytest.mark.parametrize("language", PROSE)
def test_any_pair_of_sentences_passes(language: str) -> None:
    parts = sentences(language)
    faults = [str(fault) for a, b in pairwise(parts) if (fault := quality_fault(f"{a} {b}"))]
    assert not faults


@pytest.mark.parametrize("language", PROSE)
def test_a_repeated_sentence_goes(language: str) -> None:
    parts = sentences(language)
    for text in ("\n".join(parts[:1] * 30), "\n\n".join(parts[:1] * 30), " ".join(parts[:1] * 30)):
        assert quality_fault(text) is not None


@pytest.mark.parametrize("language", PROSE)
def test_symbols_and_tables_of_numbers_go(language: str) -> None:
    word = sentences(language)[0][:4].strip()
    rng = random.Random(1)
    table = "\n".join(f"{word} " + " ".join(str(rng.randint(100, 999)) for _ in range(9)) for _ in range(40))
    symbols = " ".join(f"{word} ### ... ###" for _ in range(40))
    for text in (table, symbols, word, f"{word} {word}"):
        assert quality_fault(text) is not None, text


@pytest.mark.parametrize("language", [name for name in PROSE if name not in UNSPACED])
def test_joined_words_and_single_letters_go(language: str) -> None:
    words = " ".join(sentences(language)).replace("་", " ").split()
    letters = [c for word in words for c in word if c.isalpha()]
    joined = " ".join("".join(words[i : i + 12]) for i in range(0, len(words), 12)) * 4
    for text in (" ".join(letters), joined):
        assert quality_fault(text) is not None, text


@pytest.mark.parametrize(
    ("text", "word_lengths"),
    [
        ("മലയാളം ഭാഷ", [6, 3]),
        ("हिन्दी में", [6, 3]),
        ("བོད་ཡིག་གི", [3, 3, 2]),
        ("می‌خواهم", [8]),
        ("ภาษาไทย", [1] * 7),
        ("ที่นี่", [3, 3]),
        ("e\u0301te\u0301", [5]),
        ("ሰላም፡ለዓለም", [3, 4]),
        ("한국어 문장", [3, 2]),
        ("人々は", [1, 1, 1]),
        ("\u0301 \u200d", []),
    ],
    ids=[
        "Malayalam",
        "Hindi",
        "Tibetan",
        "Persian",
        "Thai",
        "Thai marks",
        "accents",
        "Amharic",
        "Korean",
        "Han",
        "no letter",
    ],
)
def test_marks_do_not_divide_words(text: str, word_lengths: list[int]) -> None:
    assert [len(word) for word in split_words(text)] == word_lengths


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Спокойно", "Cyrillic"),
        ("전압은 220 V, PLC controller 를 사용한다", "Hangul"),
        ("PLC制御盤の点検 (check list)", "Han"),
        ("カタカナのテスト", "Katakana"),
        ("The English text speaks of 日本 once", "Latin"),
        ("12 34 %", "no letters"),
        ("ｆｕｌｌ width", "Latin"),
        ("ᐃᓄᒃᑎᑐᑦ", "Canadian Aboriginal"),
        ("English first. " * 20 + "แล้วก็ภาษาไทย " * 40, "Thai"),
    ],
)
def test_scripts(text: str, script: str) -> None:
    assert script_of(text)[0] == script


@pytest.mark.parametrize("text", ["", "\u0301", "\ufffd" * 9, "\U000e0041", "😀" * 30, "𝒜" * 30, "\u200d"])
def test_odd_characters_have_a_script_and_a_fault(text: str) -> None:
    assert script_of(text)[0]
    assert quality_fault(text) is not None


def test_a_language_that_is_not_recognised_has_no_english_stop_words() -> None:
    """Hmong is in none of the 97 languages."""
    hmong = (
        "Cov neeg ua hauj lwm hluav taws xob kuaj lub tshuab txhua tag kis thiab sau ntawv. Yog muaj teeb meem lawv hu rau "
        "lub chaw loj thiab kaw txoj xov. Tom qab ntawd lawv kho lub tshuab thiab qhib hluav taws xob rau lub nroog. Cov "
        "neeg zoo siab rau lawv txoj hauj lwm tab sis nag los ntau."
    )
    assert len(hmong.split()) >= 50 and quality_fault(hmong) is None
