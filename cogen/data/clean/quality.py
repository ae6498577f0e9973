"""Documents of low quality, by the published rules of Gopher and FineWeb, with their numbers.

Sources: Gopher (Rae et al., arXiv 2112.11446, appendix A.1.1 and table A1); FineWeb (Penedo et al.,
arXiv 2406.17557, section 3.6). Where the rules were made for English web pages they are held to what they
can measure: stop words to English; stop words, numbers and repetition to documents of 50 words, shares of
lines to documents of 10 lines; what a word is, how long one is and how short a line is to the script
(`scripts.py`). Domain text may be short and telegraphic ("Relay 21 tripped 14:05, no load lost."): the least
is 10 words, where Gopher has 50.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from cogen.data.clean.language import NO_LANGUAGE, detect_language
from cogen.data.clean.repetition import duplicate_frac, ngram_fracs
from cogen.data.clean.scripts import script_of
from cogen.data.clean.words import split_words

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
# A log note or a glossary's entry has a dozen words; below, it is a title or a fragment.
LEAST_WORDS = 10
# What Gopher takes as the shortest document: in fewer words, one repetition or three numbers are a large share.
LEAST_WORDS_SHARES = 50
LEAST_LINES = 10
# Above Gopher's bound a text is a collection. Two letters without spaces between them are counted as a word.
MOST_WORDS = 100_000
UNSPACED_LETTERS_PER_WORD = 2
# Of letters in scripts without spaces, in runs of ten that occurred before: prose about one matter repeats its
# terms, and a Thai or Burmese term alone has ten letters.
MOST_REPEATED_LETTERS = 0.5

_BULLET = re.compile(r"\s*(?:[-*+•●○■□▪▸►‣–—]|\d{1,3}[.)])\s")
_ELLIPSES = ("...", "…")
_SYMBOL = re.compile(r"#|\.\.\.|…+")
# Also between Ethiopic words and between Tibetan syllables, where older text and Tibetan have no spaces.
_SPACE = re.compile(r"[\s\u1361\u0f0b\u0f0c]+")
# Marks that end a sentence, by Unicode's Sentence_Terminal, and the ends of a clause, a quotation and a table's row.
_END = frozenset(".!?:;\"'…|։׃،؛؝؞؟۔܀܁܂߹।॥၊။።፣፤፥፦፧፨᙮។៕៖᠃᠉᥄᥅᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼。、︒꓿꘎꘏꛳꛷꣎꣏꤯꧈꧉꫰꫱꯫﹒﹔﹕﹖﹗！．：；？｡།༎༏༑༔·")


@dataclass(frozen=True)
class Fault:
    """The rule that a document fails, its value, and the bound."""

    rule: str
    value: float
    bound: str

    def __str__(self) -> str:
        return f"{self.rule} {self.value:.3g}, {self.bound}"


@dataclass(frozen=True)
class QualityRule:
    """Lower and upper bound of a measure, both allowed; only documents with enough words and lines, in scripts where it applies, are scored."""

    measure: Callable[[_Measured], float]
    least: float = float("-inf")
    most: float = float("inf")
    least_words: int = 0
    least_lines: int = 0
    applies: Callable[[_Measured], bool] = lambda _: True
    bounds: Callable[[_Measured], tuple[float, float]] | None = None  # in place of `least` and `most`

    def bounds_of(self, measured: _Measured) -> tuple[float, float]:
        """Least and most."""
        return self.bounds(measured) if self.bounds else (self.least, self.most)


class _Measured:
    """A text, and values that several rules need, each computed once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.writing = script_of(text)[1]

    @cached_property
    def words(self) -> list[str]:
        """What stands between spaces; in scripts without spaces, letters and numbers."""
        return list(filter(None, _SPACE.split(self.text))) if self.writing.has_spaces else split_words(self.text)

    @cached_property
    def num_words(self) -> float:
        """The number of words; of fewer than ten, as many as an English text of so many letters has."""
        count = len(self.words) if self.writing.has_spaces else len(self.words) / UNSPACED_LETTERS_PER_WORD
        if count >= LEAST_WORDS:
            return count
        return max(count, sum(map(len, split_words(self.text))) / self.writing.letters_per_word)

    @cached_property
    def lines(self) -> list[str]:
        return [line.strip() for line in self.text.split("\n") if line.strip()]

    @cached_property
    def paragraphs(self) -> list[str]:
        return [p.strip() for p in re.split(r"\n\s*\n", self.text) if p.strip()]

    @cached_property
    def ngram_fracs(self) -> dict[int, float]:
        return ngram_fracs(self.words)

    @property
    def mean_word_length(self) -> float:
        return sum(map(len, self.words)) / max(1, len(self.words))

    @property
    def alphabetic_frac(self) -> float:
        return sum(w.isalpha() or any(map(str.isalpha, w)) for w in self.words) / max(1, len(self.words))

    @property
    def num_stop_words(self) -> int:
        """Different ones, in English; longer words that occur twice, if no language is found; else as many as there are."""
        counts = Counter(w.strip(".,;:!?()\"'").casefold() for w in self.words)
        found = len(STOP_WORDS.intersection(counts))
        if found >= 2:
            return found
        language = detect_language(self.text)
        if language == NO_LANGUAGE:  # gibberish, or one of the languages that langid does not know
            return max(found, sum(n > 1 and w.isalpha() and len(w) > 2 for w, n in counts.items()))
        return found if language == "en" else len(STOP_WORDS)

    @property
    def ended_frac(self) -> float:
        """Lines that end a sentence, or that continue on the next line, as in wrapped text."""
        following = [*self.lines[1:], ""]
        ended = sum(_ends(a) or self._continues(a, b) for a, b in zip(self.lines, following, strict=True))
        return ended / max(1, len(self.lines))

    def _continues(self, line: str, following: str) -> bool:
        """Whether the next line begins in lower case; in scripts without cases, whether the line is not short."""
        first = following[:1]
        if first.lower() != first.upper():
            return first.islower()
        return first.isalpha() and len(line) >= (self.writing.short_line or 0)

    @property
    def short_frac(self) -> float:
        return self.line_frac(lambda line: len(line) < (self.writing.short_line or 0))

    def line_frac(self, has: Callable[[str], object]) -> float:
        return sum(bool(has(line)) for line in self.lines) / max(1, len(self.lines))


def _ends(line: str) -> bool:
    """Whether the line ends a sentence: with its mark or a closing bracket or quotation mark."""
    return line[-1:] in _END or unicodedata.category(line[-1:] or " ") in ("Pe", "Pf")


def _has_spaces(measured: _Measured) -> bool:
    return measured.writing.has_spaces


def _has_no_spaces(measured: _Measured) -> bool:
    return not measured.writing.has_spaces


def _has_lines(measured: _Measured) -> bool:
    return measured.writing.short_line is not None


def _repetition(measure: Callable[[_Measured], float], most: float) -> QualityRule:
    return QualityRule(measure, most=most, least_words=LEAST_WORDS_SHARES)


def _ngrams(n: int, most: float) -> QualityRule:
    return QualityRule(lambda m: m.ngram_fracs[n], most=most, least_words=LEAST_WORDS_SHARES, applies=_has_spaces)


RULES: dict[str, QualityRule] = {
    "number of words": QualityRule(lambda m: m.num_words, LEAST_WORDS, MOST_WORDS),
    "mean word length": QualityRule(
        lambda m: m.mean_word_length, bounds=lambda m: m.writing.word_length, applies=_has_spaces
    ),
    "symbols per word": QualityRule(lambda m: len(_SYMBOL.findall(m.text)) / max(1, len(m.words)), most=0.1),
    "bullet lines": QualityRule(lambda m: m.line_frac(_BULLET.match), most=0.9, least_lines=LEAST_LINES),
    "ellipsis lines": QualityRule(lambda m: m.line_frac(lambda x: x.endswith(_ELLIPSES)), most=0.3),
    "words with a letter": QualityRule(
        lambda m: m.alphabetic_frac, least=0.8, least_words=LEAST_WORDS_SHARES, applies=_has_spaces
    ),
    "letters among letters and numbers": QualityRule(
        lambda m: m.alphabetic_frac, least=0.5, least_words=LEAST_WORDS_SHARES, applies=_has_no_spaces
    ),
    "stop words": QualityRule(lambda m: m.num_stop_words, least=2, least_words=LEAST_WORDS_SHARES),
    "duplicate lines": _repetition(lambda m: duplicate_frac(m.lines), 0.3),
    "duplicate paragraphs": _repetition(lambda m: duplicate_frac(m.paragraphs), 0.3),
    "characters in duplicate paragraphs": _repetition(lambda m: duplicate_frac(m.paragraphs, by_length=True), 0.2),
    "characters in duplicate lines": _repetition(lambda m: duplicate_frac(m.lines, by_length=True), 0.1),
    "top 2-gram": _ngrams(2, 0.2),
    "top 3-gram": _ngrams(3, 0.18),
    "top 4-gram": _ngrams(4, 0.16),
    "repeated 5-grams": _ngrams(5, 0.15),
    "repeated 6-grams": _ngrams(6, 0.14),
    "repeated 7-grams": _ngrams(7, 0.13),
    "repeated 8-grams": _ngrams(8, 0.12),
    "repeated 9-grams": _ngrams(9, 0.11),
    "repeated 10-grams": _ngrams(10, 0.1),
    "repeated runs of ten letters": QualityRule(
        lambda m: m.ngram_fracs[10], most=0.5, least_words=LEAST_WORDS_SHARES, applies=_has_no_spaces
    ),
    "ended lines": QualityRule(lambda m: m.ended_frac, least=0.12, least_lines=LEAST_LINES, applies=_has_lines),
    "short lines": QualityRule(lambda m: m.short_frac, most=0.67, least_lines=LEAST_LINES, applies=_has_lines),
}


def quality_fault(text: str) -> Fault | None:
    """The first rule that the document fails, in the order of `RULES`; None for a good one.

    >>> str(quality_fault("Too short."))
    'number of words 2, at least 10'
    """
    return next(_faults(_Measured(text)), None)


def _faults(measured: _Measured) -> Iterator[Fault]:
    for name, rule in RULES.items():
        if not rule.applies(measured):
            continue
        if measured.num_words < rule.least_words or len(measured.lines) < rule.least_lines:
            continue
        value, (least, most) = rule.measure(measured), rule.bounds_of(measured)
        if value < least:
            yield Fault(name, value, f"at least {least:g}")
        elif value > most:
            yield Fault(name, value, f"at most {most:g}")
