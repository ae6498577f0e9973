"""General text, which no client trains on: it shows how much a model forgets by training on the domains."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.data import Document, Window, heldout_windows, read_corpus
from cogen.data.clean import signature
from cogen.data.clean.duplicates import leaked
from cogen.data.read import iter_corpus
from cogen.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cogen.base import Base

Key = tuple[str, str]


def general_windows(base: Base, path: str | Path, sequence_length: int) -> list[Window]:
    """Windows of every document to its end; no part of general text is used for training.

    Raises:
        DataError: the path is missing or has no documents.
    """
    return heldout_windows(read_corpus(path).documents, base.tokenizer, sequence_length, sys.maxsize)


def require_unseen(general: str | Path, corpora: Mapping[str, str | Path], jaccard: float) -> None:
    """Refuse general text if a training corpus has the same or nearly the same document: it would not show forgetting.

    Args:
        corpora: name to path of each training corpus; the name appears in errors.
        jaccard: fraction of common word 5-grams from which two documents count as the same.
    Raises:
        DataError: a corpus cannot be read, or has a document of `general`.
    """
    own = [((str(general), d.id), signature(d.text)) for d in read_corpus(general).documents]
    found = leaked(own, _signatures(corpora), jaccard)
    if found:
        (name, theirs), (_, mine) = next(iter(found.items()))
        raise DataError(
            "cannot measure forgetting",
            expected="general text that no client trains on",
            got=f"{len(found)} of its documents in the corpora, {mine!r} as {theirs!r} of {name}",
            where=str(general),
            fix="Remove them from one of the two, or set evaluate.general to other text.",
        )


def _signatures(corpora: Mapping[str, str | Path]) -> Iterator[tuple[Key, NDArray[np.uint8]]]:
    for name, path in corpora.items():
        for item in iter_corpus(path):
            if isinstance(item, Document):
                yield (name, item.id), signature(item.text)
