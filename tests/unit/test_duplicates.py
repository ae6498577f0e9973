"""Near-duplicates: the estimate against exact Jaccard, and an index that finds them among many."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cogen.data.clean import DuplicateIndex, exact_key, leaked, signature
from cogen.data.clean.duplicates import BUCKET_SIZE, similarity
from tests.conftest import DOMAINS, SEEDS


def text(start: int, count: int) -> str:
    """`count` different words: texts share as many 5-grams as their ranges do."""
    return " ".join(f"w{i}" for i in range(start, start + count))


def jaccard(a: str, b: str) -> float:
    grams = [{tuple(w[i : i + 5]) for i in range(len(w) - 4)} for w in (a.split(), b.split())]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


@pytest.mark.parametrize("shift", [0, 5, 22, 50, 100, 150, 300])
def test_the_estimate_is_near_exact_jaccard(shift: int) -> None:
    """Ranges of 204 words shifted by s share 200 - s of 200 + s 5-grams; four standard errors are 0.18."""
    a, b = text(0, 204), text(shift, 204)
    exact = max(0, 200 - shift) / (200 + min(shift, 200))
    assert jaccard(a, b) == pytest.approx(exact)
    assert float(similarity(signature(a), signature(b))) == pytest.approx(exact, abs=0.14)


def test_estimates_are_unbiased() -> None:
    """The mean of 200 estimates at J = 0.6 (shift 50) is within 4 of its standard errors, 0.043 / sqrt(200)."""
    pairs = [(text(1000 * k, 204), text(1000 * k + 50, 204)) for k in range(200)]
    mean = np.mean([similarity(signature(a), signature(b)) for a, b in pairs])
    assert mean == pytest.approx(0.6, abs=0.0125)


def test_signatures_read_words_not_case_or_marks() -> None:
    assert (signature("The pump, that is: OLD, stops now") == signature("the pump that is old stops now")).all()
    assert (signature("one two three four five six") != signature("one two three four six five")).any()
    assert signature("").shape == signature("- * -").shape == (128,)
    assert similarity(signature("电网的频率下降时调速器打开"), signature("电网的频率下降时调速器打开了")) > 0.6


def test_exact_keys_ignore_white_space_alone() -> None:
    assert exact_key("a b\n c") == exact_key("a  b c\n") != exact_key("a b C")


@pytest.mark.parametrize(("shift", "is_found"), [(0, True), (8, True), (50, False), (400, False)])
def test_the_index_finds_what_is_well_above_and_leaves_what_is_well_below(shift: int, is_found: bool) -> None:
    """Exact Jaccard 1, 0.92, 0.6 and 0."""
    index: DuplicateIndex[str] = DuplicateIndex(0.8)
    assert index.add("first", signature(text(0, 204))) is None
    assert index.add("second", signature(text(shift, 204))) == ("first" if is_found else None)
    assert len(index) == (1 if is_found else 2), "a duplicate does not join"


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 1.0])
def test_pairs_are_found_at_other_thresholds_and_after_growing(threshold: float) -> None:
    """3,000 documents (the table and the signatures grow several times), then a copy of each with one byte changed."""
    rng = np.random.default_rng(1)
    checksums = rng.integers(0, 256, (3000, 128), dtype=np.uint8)
    index: DuplicateIndex[int] = DuplicateIndex(threshold)
    assert [index.add(n, s) for n, s in enumerate(checksums)] == [None] * 3000
    near = checksums.copy()
    near[:, 77] ^= 1
    assert [index.find(s) for s in checksums] == list(range(3000))
    assert [index.find(s) for s in near] == (list(range(3000)) if threshold < 1 else [None] * 3000)


def test_recall_at_the_threshold() -> None:
    """Pairs that agree in exactly 108 of 128 bytes (J = 0.843): 1 - (1 - 0.843^8)^16 = 0.99 have a band in common."""
    rng = np.random.default_rng(2)
    index: DuplicateIndex[int] = DuplicateIndex(0.8)
    found = 0
    for n, checksum in enumerate(rng.integers(0, 256, (500, 128), dtype=np.uint8)):
        index.add(n, checksum)
        near = checksum.copy()
        near[rng.permutation(128)[:20]] ^= 255
        found += index.find(near) == n
    assert found >= 485


def test_a_band_that_all_share_fills_its_bucket_and_no_more() -> None:
    rng = np.random.default_rng(3)
    checksums = rng.integers(0, 256, (2000, 128), dtype=np.uint8)
    checksums[:, :8] = 7
    index: DuplicateIndex[int] = DuplicateIndex(0.8)
    for n, checksum in enumerate(checksums):
        assert index.add(n, checksum) is None
    assert [index.find(s) for s in checksums] == list(range(2000))
    bucket = index._buckets(checksums[:1])[0][0]
    assert (index._table[bucket] >= 0).sum() == BUCKET_SIZE


def test_leaks_name_both_documents() -> None:
    heldout = [("h1", signature(text(0, 204))), ("h2", signature(text(5000, 204)))]
    train = [("t1", signature(text(3, 204))), ("t2", signature(text(9000, 204))), ("t3", signature(text(5000, 204)))]
    assert leaked(heldout, train, 0.8) == {"t1": "h1", "t3": "h2"}


def test_no_two_seeds_are_near() -> None:
    index: DuplicateIndex[str] = DuplicateIndex(0.8)
    lines = [json.loads(line) for d in DOMAINS for line in (SEEDS / f"{d}.jsonl").read_text().splitlines()]
    assert {index.add(line["id"], signature(line["text"])) for line in lines} == {None} and len(index) == 160
