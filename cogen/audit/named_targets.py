"""Targets of an audit by hand: adapters of `cogen train`, and merges of them, on the corpora that they were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.adapter import Adapter
from cogen.adapter.trained_on import trained_corpora
from cogen.audit.targets import AuditedDomain, AuditedModel, Targets, Training, audit_text
from cogen.audit.windows import trained_blocks
from cogen.base import leading_id
from cogen.config import Train
from cogen.data import Prepared
from cogen.data.spool import Progress
from cogen.errors import AdapterError
from cogen.evaluate.heldout import as_trained
from cogen.evaluate.matrix import NotMeasured
from cogen.records import validated
from cogen.train.mixture import MIXED, Mixture
from cogen.train.schedule import plan_round

if TYPE_CHECKING:
    from cogen.base import Base

UNKNOWN = "nothing says which blocks of this text it was trained on"


@dataclass(frozen=True)
class _Trained:
    """A corpus as one adapter was trained on it; `is_alone` without any other text."""

    prepared: Prepared
    settings: Train
    blocks: list[int]
    is_alone: bool


def named_targets(
    base: Base, folders: Mapping[str, str], data: Mapping[str, str], progress: Progress | None = None
) -> Targets:
    """Adapters in folders on corpora, both by name.

    Which blocks an adapter of `cogen train` was trained on follows from its manifest. A merge was trained on what its
    input was, if this is among `folders`.

    Raises:
        AdapterError: a folder has no usable adapter, or none was trained on any of the corpora.
        FingerprintMismatch: an adapter was made for another base.
        DataError: a corpus cannot be read.
    """
    adapters = {name: Adapter.open(folder) for name, folder in folders.items()}
    for name, adapter in adapters.items():
        base.info.require(adapter, name)
    domains: list[AuditedDomain] = []
    gaps: list[NotMeasured] = []
    for domain, path in data.items():
        found = {name: _trained(base, path, a, name, progress) for name, a in adapters.items()}
        known = {name: trained for name, trained in found.items() if trained is not None}
        some = [_domain(base, domain, name, trained, adapters, set(known), folders) for name, trained in known.items()]
        audited = {model.name for one in some for model in one.models}
        gaps += [NotMeasured(name, domain, UNKNOWN) for name in adapters if name not in audited]
        domains += some
    if not domains:
        raise AdapterError(
            "cannot audit",
            expected="adapters of `cogen train` and the corpora that they were trained on",
            got="no adapter that was trained on one of the corpora",
            fix="Name its corpus with --data; to audit the adapters of a run, name the run folder.",
        )
    return Targets(tuple(domains), tuple(gaps))


def _domain(
    base: Base,
    domain: str,
    name: str,
    trained: _Trained,
    adapters: Mapping[str, Adapter],
    known: set[str],
    folders: Mapping[str, str],
) -> AuditedDomain:
    """One adapter on its corpus, with the merges that have no other input of this corpus."""
    digests = {adapters[other].digest for other in known}
    merges = [
        other
        for other, adapter in adapters.items()
        if _parents(adapter) & digests == {adapters[name].digest} and other not in known
    ]
    models = tuple(AuditedModel(n, Path(folders[n]), frozenset(trained.blocks)) for n in (name, *merges))
    text = audit_text(base, trained.prepared, trained.settings, trained.blocks)
    if not trained.is_alone:
        return AuditedDomain(domain, text, models)
    heldout_frac = trained.prepared.card.heldout_frac
    mixture = Mixture({domain: trained.prepared}, None, None, heldout_frac, bos=leading_id(base.tokenizer))
    return AuditedDomain(domain, text, models, Training(trained.settings, mixture))


def _parents(adapter: Adapter) -> set[str]:
    """Digests of the adapters that a merge was made of."""
    return {str(parent.get("factors_sha256")) for parent in adapter.manifest.get("parents", ())}


def _trained(base: Base, path: str, adapter: Adapter, name: str, progress: Progress | None) -> _Trained | None:
    """What `cogen train` trained an adapter on of the corpus at `path`; None for another corpus or another adapter."""
    manifest = adapter.manifest
    hashes, values = list(manifest.get("data_sha256", {}).values()), manifest.get("settings")
    if values is None:
        return None
    for corpus in trained_corpora(manifest, name):
        if corpus.sha256 not in hashes:
            continue
        prepared = as_trained(base, path, corpus, name, progress)
        if prepared is not None:
            mixed = {
                key: key for key in MIXED if f"{key}_sha256" in manifest
            }  # their paths are private, and not needed
            settings = validated(Train, {**values, **mixed}, f"settings in the manifest of {name}")
            num_blocks = int(manifest["num_tokens"]) // settings.sequence_length
            total = plan_round(settings, 1, 1).total_blocks
            blocks = trained_blocks(settings, len(hashes), range(num_blocks), total)[hashes.index(corpus.sha256)]
            return _Trained(prepared, settings, blocks, len(hashes) == 1 and not mixed)
    return None
