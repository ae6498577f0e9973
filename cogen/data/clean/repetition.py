"""How much of a text repeats itself: lines, paragraphs, word n-grams."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def duplicate_frac(parts: Sequence[str], *, by_length: bool = False) -> float:
    """Share of the parts (with `by_length`, of their characters) that repeat an earlier one."""
    sizes = [len(part) if by_length else 1 for part in parts]
    seen: set[str] = set()
    repeated = 0
    for part, size in zip(parts, sizes, strict=True):
        repeated += size if part in seen else 0
        seen.add(part)
    return repeated / max(1, sum(sizes))


def top_frac(words: Sequence[str], n: int) -> float:
    """Share of the words' characters that the most frequent n-gram covers, 0 where none occurs twice."""
    codes, lengths = _coded(tuple(words))
    grams = _grams(codes, n)
    if not len(grams):
        return 0.0
    _, first, counts = np.unique(grams, return_index=True, return_counts=True)
    most = counts.max()
    if most < 2:
        return 0.0
    longest = max(int(lengths[i : i + n].sum()) for i in first[counts == most])
    return float(longest * most / lengths.sum())


def repeated_frac(words: Sequence[str], n: int) -> float:
    """Share of the words' characters in n-grams that repeat an earlier one; each character counts once.

    The first occurrence does not count, as in FineWeb's implementation of Gopher's rule.
    """
    codes, lengths = _coded(tuple(words))
    grams = _grams(codes, n)
    if not len(grams):
        return 0.0
    _, first = np.unique(grams, return_index=True)
    if len(first) == len(grams):
        return 0.0
    is_repeat = np.ones(len(grams), dtype=bool)
    is_repeat[first] = False
    covered = np.zeros(len(codes) + 1, dtype=np.int64)
    starts = np.flatnonzero(is_repeat)
    np.add.at(covered, starts, 1)
    np.add.at(covered, starts + n, -1)
    return float(lengths[np.cumsum(covered[:-1]) > 0].sum() / lengths.sum())


@lru_cache(maxsize=1)
def _coded(words: tuple[str, ...]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """A number for each word, the same for the same word, and the words' lengths."""
    numbers: dict[str, int] = {}
    codes = np.array([numbers.setdefault(word, len(numbers) + 1) for word in words], dtype=np.uint64)
    return codes, np.array([len(word) for word in words], dtype=np.int64)


def _grams(codes: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """A 64-bit hash of the n words from each place on; two of a document's n-grams meet by chance never."""
    count = max(0, len(codes) - n + 1)
    grams = np.zeros(count, dtype=np.uint64)
    for i in range(n):
        grams = (grams + codes[i : i + count]) * np.uint64(0x9E3779B97F4A7C15)
        grams ^= grams >> np.uint64(32)
    return grams
