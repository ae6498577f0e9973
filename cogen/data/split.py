"""The held-out part of a corpus, and a validation part: whole documents, chosen by a hash of their id.

The law, for documents sorted by the hash of their id (uniform in [0, 1), the same on every machine):

- Held out are all documents with a hash below `heldout_frac`. If there is none, the document with the lowest
  hash is held out. If all documents are below, the one with the highest hash is trained on instead.
- Validation documents, where asked for, come next in the order: those with a hash below
  `heldout_frac + validation_frac`, and if there is none, the first that is not held out.
- All other documents are training documents.

So a corpus of two or more documents always has a held-out and a training document, whatever the order in
which they are read. When documents are added:

- A document that is held out because its hash is below `heldout_frac` stays held out.
- A document that is held out because it has the lowest hash stays so until a document with a lower hash is added.
  Then the new document takes its place, and the old one is trained on.
- A training document never becomes a held-out one, with one exception: a document with a hash below
  `heldout_frac`, trained on because it was the highest, is held out once a document with a higher hash is added.

Two documents with one id are on the same side. Documents that cleaning drops do not count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cogen.data.document import Document
from cogen.errors import ConfigError, DataError


@dataclass(frozen=True)
class Split:
    """Disjoint parts of a corpus; held-out documents in the order of their hash."""

    train: tuple[Document, ...]
    heldout: tuple[Document, ...]


def split_documents(documents: Iterable[Document], heldout_frac: float, where: str) -> Split:
    """Hold out about `heldout_frac` of the documents, and at least one, by the law of this module.

    Args:
        heldout_frac: above 0, below 1.
        where: the corpus, named in the error.
    Raises:
        DataError: fewer than two documents.
    """
    documents = tuple(documents)
    heldout = _heldout_part(sorted(documents, key=hash_order), heldout_frac)
    ids = {d.id for d in heldout}
    train = tuple(d for d in documents if d.id not in ids)
    if not (heldout and train):
        raise too_small(len(documents), heldout_frac, where)
    return Split(train=train, heldout=heldout)


def validation_documents(
    documents: Iterable[Document], heldout_frac: float, validation_frac: float, where: str
) -> tuple[Document, ...]:
    """About `validation_frac` of the documents, and at least one, for choices such as a merge's scale.

    They are never held-out documents and come in the order of their hash, see the law of this module.
    `split_documents` counts them as training documents. An expert that was trained on them scores better here.

    Args:
        heldout_frac: the one of training and report; 0 where nothing is held out.
        validation_frac: above 0, at most 1 - heldout_frac.
    Raises:
        ConfigError: fractions that do not fit.
        DataError: no document is left beyond the held-out ones.
    """
    if not (0.0 <= heldout_frac < 1.0 and 0.0 < validation_frac <= 1.0 - heldout_frac + 1e-9):
        raise ConfigError(
            "cannot choose validation documents",
            expected="heldout_frac in [0, 1), validation_frac above 0 and their sum at most 1",
            got=f"{heldout_frac:g} and {validation_frac:g}",
            where=where,
            fix="Change one of them.",
        )
    ranked = sorted(documents, key=hash_order)
    heldout = _heldout_part(ranked, heldout_frac) if heldout_frac else ()
    found = _leading(ranked[len(heldout) :], heldout_frac + validation_frac)
    if not found:
        raise DataError(
            "corpus too small for validation text",
            expected="at least one document besides the held-out ones",
            got=f"{len(ranked)} documents",
            where=where,
            fix="Add documents.",
        )
    return found


def split_id(document: Document) -> str:
    """The id whose hash decides on which side of the split a document is."""
    return document.split_id or document.id


def is_below(identity: str, frac: float) -> bool:
    """Whether the hash of this id is below `frac`."""
    return _unit_hash(identity) < frac


def hash_order(document: Document) -> tuple[float, str]:
    """The key that documents are sorted by: the hash of the id that decides, then their own id."""
    return _unit_hash(split_id(document)), document.id


def num_leading(ranked: Sequence[Document], frac: float) -> int:
    """How many documents of `ranked`, sorted by hash, are below `frac`; if none is, all with the lowest one's id."""
    num_below = sum(is_below(split_id(d), frac) for d in ranked)
    return num_below or sum(d.id == ranked[0].id for d in ranked)


def too_small(num_documents: int, heldout_frac: float, where: str, lost: str = "", parts: str = "") -> DataError:
    """The corpus cannot be split; `lost` says which documents there might have been, `parts` what is missing."""
    return DataError(
        "corpus too small to hold anything out",
        expected=parts or "at least one held-out and one training document",
        got=f"{num_documents} {'document' if num_documents == 1 else 'documents'} at heldout_frac = {heldout_frac:g}{lost}",
        where=where,
        fix="Add documents.",
    )


def _heldout_part(ranked: Sequence[Document], heldout_frac: float) -> tuple[Document, ...]:
    """The held-out ones of documents sorted by hash; none where all have one id."""
    found = _leading(ranked, heldout_frac)
    return tuple(d for d in found if len(found) < len(ranked) or d.id != ranked[-1].id)


def _leading(ranked: Sequence[Document], frac: float) -> tuple[Document, ...]:
    return tuple(ranked[: num_leading(ranked, frac)])


def _unit_hash(identity: str) -> float:
    """Uniform in [0, 1), the same on every machine; the salt makes it differ from other hashes of the id."""
    return int.from_bytes(hashlib.sha256(b"cogen-heldout\0" + identity.encode()).digest()[:8], "big") / 2.0**64
