"""General text: what nobody trains on, read whole, to see what training on other text made a model forget."""

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
    """Windows of every document, up to the end of each: there is no training part to leave out.

    Raises:
        DataError: no such path, or no documents.
    """
    return heldout_windows(read_corpus(path).documents, base.tokenizer, sequence_length, sys.maxsize)


def require_unseen(general: str | Path, corpora: Mapping[str, str | Path], jaccard: float) -> None:
    """Refuse general text that some domain has too, word for word or nearly: it says nothing of forgetting.

    Args:
        corpora: what is trained on, by the name that a message gives it.
        jaccard: share of word 5-grams in common from which two documents are the same.
    Raises:
        DataError: a corpus cannot be read, or has a document of `general`.
    """
    own = [((str(general), d.id), signature(d.text)) for d in read_corpus(general).documents]
    found = leaked(own, _signatures(corpora), jaccard)
    if found:
        (name, theirs), (_, mine) = next(iter(found.items()))
        raise DataError(
            "cannot measure forgetting",
            expected="general text that nobody trains on",
            got=f"{len(found)} of its documents in the corpora, {mine!r} as {theirs!r} of {name}",
            where=str(general),
            fix="Take them out of either, or name other text with evaluate.general.",
        )


def _signatures(corpora: Mapping[str, str | Path]) -> Iterator[tuple[Key, NDArray[np.uint8]]]:
    for name, path in corpora.items():
        for item in iter_corpus(path):
            if isinstance(item, Document):
                yield (name, item.id), signature(item.text)
