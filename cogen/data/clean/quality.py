"""Documents of low quality, by the published rules of Gopher and FineWeb, with their numbers.

Sources: Gopher (Rae et al., arXiv 2112.11446, appendix A.1.1 and table A1); FineWeb (Penedo et al.,
arXiv 2406.17557, section 3.6). Where the rules were made for English web pages they are held to what they
can measure: stop words to English; words to scripts with spaces; stop words, numbers and repetition to
documents of 50 words, shares of lines to documents of 10 lines. Domain text may be short and telegraphic
("Relay 21 tripped 14:05, no load lost."): the least is 10 words, where Gopher has 50.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from cogen.data.clean.language import NO_LANGUAGE, detect_language
from cogen.data.clean.repetition import duplicate_frac, ngram_fracs
from cogen.data.clean.words import is_unspaced, split_words

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
# A log note or a glossary's entry has a dozen words; below, it is a title or a fragment.
LEAST_WORDS = 10
# What Gopher takes as the shortest document: in fewer words, one repetition or three numbers are a large share.
LEAST_WORDS_SHARES = 50
LEAST_LINES = 10
SHORT_LINE_CHARACTERS = 30

_BULLET = re.compile(r"\s*(?:[-*+•●○■□▪▸►‣–—]|\d{1,3}[.)])\s")
_ELLIPSES = ("...", "…")
_SYMBOL = re.compile(r"#|\.\.\.|…")
# A table's cell and a heading end without one; sentences in other scripts have their own.
_END = tuple(".!?:;\"'”’»)]。！？।؟…|")


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
    """Lower and upper bound of a measure, both allowed; only documents with enough words and lines are scored."""

    measure: Callable[[_Measured], float]
    least: float = float("-inf")
    most: float = float("inf")
    least_words: int = 0
    least_lines: int = 0
    needs_spaces: bool = True


class _Measured:
    """A text, and values that several rules need, each computed once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.has_spaces = not is_unspaced(text)

    @cached_property
    def words(self) -> list[str]:
        return self.text.split() if self.has_spaces else split_words(self.text)

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
        """Different ones; as many as there are where the text is in another language than English."""
        found = len(STOP_WORDS.intersection(w.strip(".,;:!?()\"'").casefold() for w in set(self.words)))
        return found if found >= 2 or detect_language(self.text) in ("en", NO_LANGUAGE) else len(STOP_WORDS)

    @property
    def ended_frac(self) -> float:
        """Lines that end a sentence, or that continue in lower case on the next line, as in wrapped text."""
        following = [*self.lines[1:], ""]
        ended = sum(a.endswith(_END) or b[:1].islower() for a, b in zip(self.lines, following, strict=True))
        return ended / max(1, len(self.lines))

    def line_frac(self, has: Callable[[str], object]) -> float:
        return sum(bool(has(line)) for line in self.lines) / max(1, len(self.lines))


def _repetition(measure: Callable[[_Measured], float], most: float) -> QualityRule:
    return QualityRule(measure, most=most, least_words=LEAST_WORDS_SHARES)


RULES: dict[str, QualityRule] = {
    "number of words": QualityRule(lambda m: len(m.words), LEAST_WORDS, 100_000, needs_spaces=False),
    "mean word length": QualityRule(lambda m: m.mean_word_length, 3, 10),
    "symbols per word": QualityRule(lambda m: len(_SYMBOL.findall(m.text)) / max(1, len(m.words)), most=0.1),
    "bullet lines": QualityRule(
        lambda m: m.line_frac(_BULLET.match), most=0.9, least_lines=LEAST_LINES, needs_spaces=False
    ),
    "ellipsis lines": QualityRule(lambda m: m.line_frac(lambda x: x.endswith(_ELLIPSES)), most=0.3, needs_spaces=False),
    "words with a letter": QualityRule(lambda m: m.alphabetic_frac, least=0.8, least_words=LEAST_WORDS_SHARES),
    "stop words": QualityRule(lambda m: m.num_stop_words, least=2, least_words=LEAST_WORDS_SHARES),
    "duplicate lines": _repetition(lambda m: duplicate_frac(m.lines), 0.3),
    "duplicate paragraphs": _repetition(lambda m: duplicate_frac(m.paragraphs), 0.3),
    "characters in duplicate paragraphs": _repetition(lambda m: duplicate_frac(m.paragraphs, by_length=True), 0.2),
    "characters in duplicate lines": _repetition(lambda m: duplicate_frac(m.lines, by_length=True), 0.1),
    "top 2-gram": _repetition(lambda m: m.ngram_fracs[2], 0.2),
    "top 3-gram": _repetition(lambda m: m.ngram_fracs[3], 0.18),
    "top 4-gram": _repetition(lambda m: m.ngram_fracs[4], 0.16),
    "repeated 5-grams": _repetition(lambda m: m.ngram_fracs[5], 0.15),
    "repeated 6-grams": _repetition(lambda m: m.ngram_fracs[6], 0.14),
    "repeated 7-grams": _repetition(lambda m: m.ngram_fracs[7], 0.13),
    "repeated 8-grams": _repetition(lambda m: m.ngram_fracs[8], 0.12),
    "repeated 9-grams": _repetition(lambda m: m.ngram_fracs[9], 0.11),
    "repeated 10-grams": _repetition(lambda m: m.ngram_fracs[10], 0.1),
    "ended lines": QualityRule(lambda m: m.ended_frac, least=0.12, least_lines=LEAST_LINES),
    "short lines": QualityRule(
        lambda m: m.line_frac(lambda x: len(x) < SHORT_LINE_CHARACTERS), most=0.67, least_lines=LEAST_LINES
    ),
}


def quality_fault(text: str) -> Fault | None:
    """The first rule that the document fails, in the order of `RULES`; None for a good one.

    >>> str(quality_fault("Too short."))
    'number of words 2, at least 10'
    """
    return next(_faults(text), None)


def _faults(text: str) -> Iterator[Fault]:
    measured = _Measured(text)
    for name, rule in RULES.items():
        if rule.needs_spaces and not measured.has_spaces:
            continue
        if len(measured.words) < rule.least_words or len(measured.lines) < rule.least_lines:
            continue
        value = rule.measure(measured)
        if value < rule.least:
            yield Fault(name, value, f"at least {rule.least:g}")
        elif value > rule.most:
            yield Fault(name, value, f"at most {rule.most:g}")
