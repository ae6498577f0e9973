"""Which text an adapter was trained on: hashes of prepared corpora, and how each was prepared. No text and no path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cogen.errors import AdapterError


@dataclass(frozen=True)
class TrainedCorpus:
    """A corpus that an adapter was trained on, but for the held-out part.

    Args:
        sha256: of the prepared content, as in the corpus's data card.
        heldout_frac: share of documents held out.
        validation_frac: share of documents kept apart for stopping early.
        data: the settings of cleaning (`[data]`), without which preparing it again gives another hash.
    """

    sha256: str
    heldout_frac: float
    validation_frac: float = 0.0
    data: Mapping[str, Any] = field(default_factory=dict)


def trained_corpora(manifest: Mapping[str, Any], where: str) -> list[TrainedCorpus]:
    """The corpora that a manifest (`cogen.json`) names: its own, or those of a merge's inputs.

    Raises:
        AdapterError: the manifest is malformed; `where` is named in the error.
    """
    try:
        if "trained_on" in manifest:
            return [TrainedCorpus(**entry) for entry in manifest["trained_on"]]
        return list(_own_corpora(manifest))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        got = f"{type(error).__name__}: {error}"
        fix = "Train or merge the adapter again."
        expected = "a manifest with the corpora of training"
        raise AdapterError("cannot read adapter", expected=expected, got=got, where=where, fix=fix) from None


def inherited(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The part of a merge's manifest that says which text its inputs, by name, were trained on."""
    found = [corpus for name, manifest in manifests.items() for corpus in trained_corpora(manifest, name)]
    unique = [asdict(corpus) for i, corpus in enumerate(found) if corpus not in found[:i]]
    return {"trained_on": unique} if unique else {}


def _own_corpora(manifest: Mapping[str, Any]) -> Iterator[TrainedCorpus]:
    """What `cogen train` has written; manifests of replies and of other tools name no corpus."""
    corpora = manifest.get("data_sha256", {})
    if not corpora:
        return
    frac, data = float(manifest["heldout_frac"]), dict(manifest.get("data", {}))
    for sha256 in corpora.values():
        yield TrainedCorpus(sha256, frac, float(manifest.get("validation_frac", 0.0)), data)
    for key in ("replay_sha256", "annealing_sha256"):
        if key in manifest:
            yield TrainedCorpus(manifest[key], frac, 0.0, data)
