"""The held-out part: whole documents, chosen by a hash of their id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from cogen.data.read import Document
from cogen.errors import DataError


@dataclass(frozen=True)
class Split:
    """Disjoint parts of a corpus; held-out documents in the order of their hash."""

    train: tuple[Document, ...]
    heldout: tuple[Document, ...]


def split_documents(documents: Iterable[Document], heldout_frac: float, where: str) -> Split:
    """Hold out about `heldout_frac` of the documents; a document's side depends on its id alone.

    Raises:
        DataError: too few documents for both parts to hold at least one.
    """
    documents = tuple(documents)
    ranked = sorted(documents, key=lambda d: (_unit_hash(d.id), d.id))
    heldout = tuple(d for d in ranked if _unit_hash(d.id) < heldout_frac)
    kept = {d.id for d in heldout}
    train = tuple(d for d in documents if d.id not in kept)
    if not heldout or not train:
        raise DataError(
            "corpus too small to hold anything out",
            expected="at least one held-out and one training document",
            got=f"{len(heldout)} held out of {len(ranked)} at heldout_frac = {heldout_frac:g}",
            where=where,
            fix="Add documents or change evaluate.heldout_frac.",
        )
    return Split(train=train, heldout=heldout)


def _unit_hash(identity: str) -> float:
    """Uniform in [0, 1), the same on every machine; the salt keeps it apart from other uses of the id."""
    return int.from_bytes(hashlib.sha256(b"cogen-heldout\0" + identity.encode()).digest()[:8], "big") / 2.0**64
