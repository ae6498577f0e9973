"""The validation part of a corpus is disjoint from the held-out part."""

from __future__ import annotations

import pytest

from cogen.data import Document, split_documents
from cogen.data.split import hash_order, validation_documents
from cogen.errors import ConfigError, DataError

PAGES = [Document(id=f"page-{n}", title="", text="text", source="") for n in range(2000)]


@pytest.mark.parametrize(("heldout", "validation"), [(0.05, 0.05), (0.15, 0.1), (0.5, 0.5)])
def test_no_heldout_document_is_a_validation_document(heldout: float, validation: float) -> None:
    """And all of them are training documents. Red: the part begins at 0 instead of heldout_frac."""
    split = split_documents(PAGES, heldout, "here")
    found = validation_documents(PAGES, heldout, validation, "here")
    assert set(found) <= set(split.train) and not set(found) & set(split.heldout)
    assert abs(len(found) / 2000 - validation) < 4 * (validation * (1 - validation) / 2000) ** 0.5


def test_it_is_what_a_larger_heldout_part_would_add() -> None:
    """Red: the upper end is validation_frac instead of the sum."""
    larger = split_documents(PAGES, 0.25, "here").heldout
    smaller = split_documents(PAGES, 0.15, "here").heldout
    assert validation_documents(iter(PAGES), 0.15, 0.1, "here") == larger[len(smaller) :]
    assert validation_documents(PAGES[::-1], 0.15, 0.1, "here") == larger[len(smaller) :]


def test_a_corpus_kept_for_validation_is_read_whole() -> None:
    """Red: heldout_frac = 0 is refused."""
    assert set(validation_documents(PAGES, 0.0, 1.0, "here")) == set(PAGES)


@pytest.mark.parametrize(("heldout", "validation"), [(1.0, 0.1), (0.6, 0.5), (0.1, 0.0), (-0.1, 0.5)])
def test_fractions_that_do_not_fit(heldout: float, validation: float) -> None:
    """Red: the sum is not looked at."""
    with pytest.raises(ConfigError, match=r"their sum at most 1, got .* \(grid\)"):
        validation_documents(PAGES, heldout, validation, "grid")


def test_the_lowest_hash_is_taken_where_none_falls_in_the_part() -> None:
    """Red: an empty tuple, or the error of a corpus too small."""
    few = sorted(PAGES[:9], key=hash_order)
    assert validation_documents(few, 1e-9, 1e-9, "grid") == (few[1],)
    assert validation_documents(few[:2], 1 - 1e-6, 1e-9, "grid") == (few[1],), "held out is all but the highest"
    assert validation_documents(few, 0.0, 1e-9, "grid") == (few[0],)


def test_an_empty_part_is_refused() -> None:
    """Red: an empty tuple is returned."""
    with pytest.raises(DataError, match=r"besides the held-out ones, got 0 documents .*grid\)"):
        validation_documents([], 0.5, 0.1, "grid")
