"""The share of a text that repeats itself: lines, paragraphs, word n-grams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOST_WORDS_TOP = 4
MOST_WORDS = 10
_ODD = np.uint64(0x9E3779B97F4A7C15)


def duplicate_frac(parts: Sequence[str], *, by_length: bool = False) -> float:
    """Share of the parts (with `by_length`, of their characters) that repeat an earlier one."""
    sizes = [len(part) if by_length else 1 for part in parts]
    seen: set[str] = set()
    repeated = 0
    for part, size in zip(parts, sizes, strict=True):
        repeated += size if part in seen else 0
        seen.add(part)
    return repeated / max(1, sum(sizes))


def ngram_fracs(words: Sequence[str]) -> dict[int, float]:
    """Share of the words' characters by n: in the most frequent n-gram to n = 4, in repeated ones from 5 to 10.

    An n-gram that occurs once does not count. The first occurrence of a repeated n-gram does not count, as in
    FineWeb's implementation of Gopher's rule, and each character counts once.
    """
    numbers: dict[str, int] = {}
    codes = np.array([numbers.setdefault(word, len(numbers) + 1) for word in words], dtype=np.uint64)
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    fracs = dict.fromkeys(range(2, MOST_WORDS + 1), 0.0)
    grams = codes
    for n in fracs:
        # A 64-bit hash of n words; a collision inside one document is practically impossible.
        grams = (grams[:-1] * _ODD) + codes[n - 1 :]
        grams ^= grams >> np.uint64(31)
        _, first, counts = np.unique(grams, return_index=True, return_counts=True)
        if len(first) == len(grams):
            break  # then no longer n-gram occurs twice either
        covered = _top(first, counts, lengths, n) if n <= MOST_WORDS_TOP else _repeated(first, lengths, n)
        fracs[n] = covered / int(lengths.sum())
    return fracs


def _top(first: NDArray[np.int64], counts: NDArray[np.int64], lengths: NDArray[np.int64], n: int) -> int:
    """Characters of the most frequent n-gram times its number; the longest of several."""
    most = counts.max()
    return int(most * max(lengths[i : i + n].sum() for i in first[counts == most]))


def _repeated(first: NDArray[np.int64], lengths: NDArray[np.int64], n: int) -> int:
    """Characters of the words in repeated n-grams, without first occurrences."""
    is_repeat = np.ones(len(lengths) - n + 1, dtype=bool)
    is_repeat[first] = False
    starts = np.flatnonzero(is_repeat)
    ends = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.add.at(ends, starts, 1)
    np.add.at(ends, starts + n, -1)
    return int(lengths[np.cumsum(ends[:-1]) > 0].sum())
