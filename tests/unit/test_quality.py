"""Each quality rule with a text that only this rule drops, and texts that must be kept."""

from __future__ import annotations

import base64
import json
import random
import string

import pytest

from cogen.data.clean import quality_fault
from cogen.data.clean.quality import RULES
from cogen.data.clean.repetition import duplicate_frac, ngram_fracs
from tests.conftest import DOMAINS, SEEDS
from tests.unit.test_clean_text import GERMAN


def words(count: int, seed: int = 0) -> list[str]:
    """Different six-letter words that mean nothing."""
    rng = random.Random(seed)
    return ["".join(rng.choices(string.ascii_lowercase, k=6)) for _ in range(count)]


def prose(count: int, seed: int = 0) -> str:
    """Such words in sentences that end in a full stop, with the stop words that English has."""
    return "the " + " ".join(words(count - 2, seed)) + " of."


def lines(count: int, of: str = "", end: str = ".", num_words: int = 6) -> str:
    return "\n".join(f"{of}the {' '.join(words(num_words, n))} of{end}" for n in range(count))


def topped(n: int, count: int) -> str:
    """200 words, an n-gram of them `count` times, the others once."""
    gram, others = words(n, 9), iter(words(200 - n * count))
    parts = [w for _ in range(count) for w in (*gram, next(others))]
    return f"the of {' '.join([*parts, *others])}."


def repeating(n: int, count: int) -> str:
    """1200 words, `count` n-grams of them a second time."""
    fresh = iter(words(1200))
    grams = [[next(fresh) for _ in range(n)] for _ in range(count)]
    parts = [w for gram in [*grams, *grams] for w in (*gram, next(fresh))]
    return f"the of {' '.join([*parts, *(next(fresh) for _ in range(1200 - len(parts)))])}."


# Fifty words and no stop word of English, plainly English all the same.
ENGLISH_WITHOUT = (
    "Grid frequency falls whenever large power plants trip offline, so governors open valves quickly. Operators watch "
    "their screens, call neighbouring control rooms, then start reserves: gas turbines first, pumped storage next. "
    "After fifteen minutes normal frequency returns. Engineers write reports, collect recordings, check protection "
    "settings, question witnesses, draw conclusions, propose better relay settings before winter brings heavier loads again."
)
FAILING = {
    "number of words": "the relay opens",
    "mean word length": "the of " + " ".join("a" for _ in range(30)),
    "symbols per word": "the of # # " + " ".join(words(12)),
    "bullet lines": lines(12, of="- "),
    "ellipsis lines": lines(2, end="…", num_words=12),
    "words with a letter": prose(40) + " 1" + " 123 456 789 1011 2.5" * 2,
    "letters among letters and numbers": "\n".join(f"电压 {n} {n + 220} {n * 7} {n + 50}" for n in range(40)),
    "stop words": ENGLISH_WITHOUT,
    "duplicate lines": lines(12) + "\nthe of it here." * 8,
    "duplicate paragraphs": "\n\n".join(["Note of the day."] * 6 + [lines(60)]),
    "characters in duplicate paragraphs": "\n\n".join([prose(40), prose(40), *(prose(30, n) for n in range(2, 5))]),
    "characters in duplicate lines": "\n".join([prose(30), prose(30), *(prose(30, n) for n in range(2, 7))]),
    "top 2-gram": topped(2, 25),  # 0.25 of 0.2
    "top 3-gram": topped(3, 16),  # 0.24 of 0.18; its 2-grams 0.16
    "top 4-gram": topped(4, 10),  # 0.2 of 0.16; its 3-grams 0.15
    "repeated 5-grams": repeating(5, 40),  # 0.167 of 0.15
    "repeated 6-grams": repeating(6, 29),  # 0.145 of 0.14, as its 5-grams
    "repeated 7-grams": repeating(7, 23),  # 0.134 of 0.13
    "repeated 8-grams": repeating(8, 19),  # 0.127 of 0.12
    "repeated 9-grams": repeating(9, 15),  # 0.113 of 0.11
    "repeated 10-grams": repeating(10, 13),  # 0.108 of 0.1
    "repeated runs of ten letters": "调速器会打开阀门，增加出力，直到频率重新稳定。" * 12,
    "ended lines": "\n".join(f"The {' '.join(words(6, n))} of" for n in range(12)),
    "short lines": lines(12, num_words=2),
}


def test_every_rule_has_its_text() -> None:
    assert set(FAILING) == set(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_drops_its_text(rule: str) -> None:
    fault = quality_fault(FAILING[rule])
    assert fault is not None and fault.rule == rule
    assert str(fault).startswith(f"{rule} ") and ("at least" in str(fault) or "at most" in str(fault))


@pytest.mark.parametrize("text", [topped(2, 20), topped(3, 11), topped(4, 7), repeating(5, 30), repeating(10, 10)])
def test_less_repetition_passes(text: str) -> None:
    assert quality_fault(text) is None


def junk() -> dict[str, str]:
    rng = random.Random(1)
    letters = string.ascii_lowercase
    return {
        "base64": base64.b64encode(rng.randbytes(3000)).decode(),
        "base64 in lines": base64.encodebytes(rng.randbytes(3000)).decode(),
        "pairs of hexadecimal digits": rng.randbytes(300).hex(" "),
        "checksums": "\n".join(rng.randbytes(16).hex() for _ in range(60)),
        "addresses": "\n".join(f"https://example.org/{''.join(rng.choices(letters, k=30))}" for _ in range(40)),
        "random words": " ".join("".join(rng.choices(letters, k=rng.randint(1, 12))) for _ in range(200)),
        "single letters": " ".join(rng.choices(letters, k=300)),
        "a table of numbers": "\n".join(" ".join(f"{rng.random():.4f}" for _ in range(8)) for _ in range(40)),
        "a menu": "\n".join(words(60)),
        "joined words": " ".join("".join(words(8, n)) for n in range(20)),
    }


@pytest.mark.parametrize(("name", "text"), junk().items(), ids=junk())
def test_junk_is_dropped(name: str, text: str) -> None:
    assert quality_fault(text) is not None, name


def test_gibberish_has_no_stop_words() -> None:
    fault = quality_fault(" ".join(words(80)))
    assert fault is not None and str(fault) == "stop words 0, at least 2"


def test_bounds_themselves_pass() -> None:
    assert quality_fault("the five six seven eight nine cable grid line of") is None, "ten words"
    ratio = quality_fault("the of # " + " ".join(words(7)))
    assert ratio is None, "one symbol in ten words"
    assert str(quality_fault("the of # " + " ".join(words(6)))) == "number of words 9, at least 10"


def test_other_languages_are_not_filtered_by_english_rules() -> None:
    chinese = "电网的频率下降时，调速器会打开阀门，增加出力，直到频率重新稳定下来为止。" * 2
    german = (
        f"{GERMAN} Danach rufen die Leitstellen einander an, starten Gasturbinen und Pumpspeicher, bis nach einer "
        "Viertelstunde wieder alles im Lot ist. Später schreiben Fachleute ihre Berichte, sammeln Aufzeichnungen, "
        "prüfen Schutzeinstellungen, befragen Zeugen und ziehen daraus ihre Schlüsse für das nächste Mal."
    )
    assert len(german.split()) >= 50 and quality_fault(german) is None and quality_fault(chinese) is None
    russian = "Частота в сети падает, когда отключается большая электростанция, и регуляторы открывают клапаны."
    assert quality_fault(russian) is None


def test_wrapped_prose_without_full_stops_at_line_ends_passes() -> None:
    text = "the " + " of ".join(words(200))
    wrapped = "\n".join(text[i : i + 70].strip() for i in range(0, len(text), 70)) + "."
    assert quality_fault(wrapped) is None


def test_short_and_numeric_domain_text_passes() -> None:
    note = "Relay 21 tripped at 14:05; line back 14:20; no load lost."
    assert quality_fault(note) is None
    assert quality_fault("# Pump\n\nStart the pump.\n\nOpen the valve until it reads 3 bar of pressure.") is None


def test_ngram_shares_by_hand() -> None:
    """`aa bb` three times in words of 2, 2 and 4 characters: 12 of 24; then one 5-gram again: 5 of 11 words."""
    assert ngram_fracs(["aa", "bb", "cccc", "aa", "bb", "dddd", "aa", "bb", "eeee"])[2] == 12 / 24
    again = ngram_fracs([*"abcdexabcde"])
    assert again[5] == pytest.approx(5 / 11) and again[6] == 0.0 and again[4] == pytest.approx(8 / 11)
    assert set(ngram_fracs(["one"]).values()) == {0.0}


def test_duplicate_shares_by_hand() -> None:
    assert duplicate_frac(["aa", "b", "aa", "aa"]) == 0.5
    assert duplicate_frac(["aa", "b", "aa", "aa"], by_length=True) == 4 / 7
    assert duplicate_frac([]) == 0.0


def test_the_seeds_all_pass() -> None:
    for domain in DOMAINS:
        for line in (SEEDS / f"{domain}.jsonl").read_text().splitlines():
            assert quality_fault(json.loads(line)["text"]) is None
