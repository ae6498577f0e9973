"""Terms of a domain: words and pairs of words that its text uses far more often than general text."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# Letters, with hyphens inside: "fault", "phase-to-phase".
WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^\W\d_a-z]|\d)|\n+")
MIN_LETTERS = 4
MIN_COUNT = 3
COMMON_WORDS = 300


@dataclass(frozen=True)
class TermPosition:
    """One occurrence of a term in a sentence: `text[start:end]`."""

    text: str
    start: int
    end: int


def sentences(text: str) -> list[str]:
    """Split a text after `.`, `?` or `!` if a capital letter or a digit follows, and at line ends."""
    return [s.strip() for s in _SENTENCE_END.split(text) if s.strip()]


def candidates(sentence: str, common: frozenset[str]) -> Iterator[TermPosition]:
    """Words, and pairs of words with one space between them, without common words."""
    found = [m for m in WORD.finditer(sentence) if len(m[0]) >= MIN_LETTERS and m[0].casefold() not in common]
    for i, match in enumerate(found):
        yield TermPosition(sentence, match.start(), match.end())
        if i + 1 < len(found) and sentence[match.end() : found[i + 1].start()] == " ":
            yield TermPosition(sentence, match.start(), found[i + 1].end())


def common_words(texts: Iterable[str]) -> frozenset[str]:
    """The most frequent words of general text; no term contains one of them."""
    counts = Counter(w.casefold() for text in texts for w in WORD.findall(text))
    return frozenset(word for word, _ in counts.most_common(COMMON_WORDS))


def term_counts(texts: Iterable[str], common: frozenset[str]) -> tuple[Counter[str], Counter[str]]:
    """How often each candidate occurs in the texts, and in how many of them; case is ignored."""
    total: Counter[str] = Counter()
    num_texts: Counter[str] = Counter()
    for text in texts:
        here = Counter(
            p.text[p.start : p.end].casefold() for sentence in sentences(text) for p in candidates(sentence, common)
        )
        total.update(here)
        num_texts.update(here.keys())
    return total, num_texts


def domain_terms(texts: Iterable[str], general: Iterable[str], max_terms: int) -> dict[str, int]:
    """The terms with the highest tf-idf, and how often each occurs in `texts`.

    tf-idf = (1 + ln tf) * ln((1 + N) / (1 + n)), with tf the count in `texts`, N the number of general texts and n the
    number of general texts with the term. Plain tf would rank frequent words such as "shown" above rarer terms. Terms
    that occur fewer than three times are dropped: many of them are names and typing errors.

    Source: Sparck Jones, A statistical interpretation of term specificity (1972); add-one smoothing.
    """
    general = list(general)
    common = common_words(general)
    total, _ = term_counts(texts, common)
    _, num_general = term_counts(general, common)
    scores = {
        term: (1.0 + math.log(count)) * math.log((1 + len(general)) / (1 + num_general[term]))
        for term, count in total.items()
        if count >= MIN_COUNT
    }
    ranked = sorted((t for t in scores if scores[t] > 0.0), key=lambda t: (-scores[t], t))
    return {term: total[term] for term in ranked[:max_terms]}
