"""The held-out part, and a validation part next to it: whole documents, chosen by a hash of their id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from cogen.data.document import Document
from cogen.errors import ConfigError, DataError


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
    ranked = sorted(documents, key=heldout_order)
    heldout = tuple(d for d in ranked if is_heldout(d.id, heldout_frac))
    train = tuple(d for d in documents if not is_heldout(d.id, heldout_frac))
    require_both(len(train), len(heldout), heldout_frac, where)
    return Split(train=train, heldout=heldout)


def is_heldout(identity: str, heldout_frac: float) -> bool:
    """The side of a document with this id."""
    return _unit_hash(identity) < heldout_frac


def heldout_order(document: Document) -> tuple[float, str]:
    """What held-out documents are sorted by."""
    return _unit_hash(document.id), document.id


def require_both(num_train: int, num_heldout: int, heldout_frac: float, where: str, lost: str = "") -> None:
    """Raise DataError where either side has no document; `lost` says which there might have been."""
    if not num_heldout or not num_train:
        raise DataError(
            "corpus too small to hold anything out",
            expected="at least one held-out and one training document",
            got=f"{num_heldout} held out of {num_train + num_heldout} at heldout_frac = {heldout_frac:g}{lost}",
            where=where,
            fix="Add documents or change evaluate.heldout_frac.",
        )


def validation_documents(
    documents: Iterable[Document], heldout_frac: float, validation_frac: float, where: str
) -> tuple[Document, ...]:
    """About `validation_frac` of the documents, for choices such as a merge's scale; never held-out ones.

    heldout_frac <= hash(id) < heldout_frac + validation_frac, in the order of their hash. For
    `split_documents` these are training documents: unless experts were trained with them skipped,
    they have seen them, and scores here favour experts.

    Args:
        heldout_frac: that of the training and of the report; 0 where nothing is held out.
        validation_frac: above 0, at most 1 - heldout_frac.
    Raises:
        ConfigError: fractions that do not fit. DataError: no document falls there.
    """
    if not (0.0 <= heldout_frac < 1.0 and 0.0 < validation_frac <= 1.0 - heldout_frac + 1e-9):
        raise ConfigError(
            "cannot set validation text apart",
            expected="heldout_frac in [0, 1), validation_frac above 0 and their sum at most 1",
            got=f"{heldout_frac:g} and {validation_frac:g}",
            where=where,
            fix="Change one of them.",
        )
    hashed = sorted(((_unit_hash(d.id), d) for d in documents), key=lambda pair: (pair[0], pair[1].id))
    found = tuple(d for unit, d in hashed if heldout_frac <= unit < heldout_frac + validation_frac)
    if not found:
        raise DataError(
            "corpus too small for validation text",
            expected="at least one document beside the held-out ones",
            got=f"none of {len(hashed)} at validation_frac = {validation_frac:g}",
            where=where,
            fix="Add documents or raise validation_frac.",
        )
    return found


def _unit_hash(identity: str) -> float:
    """Uniform in [0, 1), the same on every machine; the salt keeps it apart from other uses of the id."""
    return int.from_bytes(hashlib.sha256(b"cogen-heldout\0" + identity.encode()).digest()[:8], "big") / 2.0**64
