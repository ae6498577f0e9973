"""The training text: blocks of the corpora in turn, replayed general text, and another mix in the annealing phase."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.base import leading_id
from cogen.config import Data, Train
from cogen.data import Document, PackedStream, Prepared
from cogen.data.account import Account
from cogen.data.pack import InterleavedStream, MixedStream, Stream
from cogen.data.spool import Progress
from cogen.train.corpus import prepare_corpus

if TYPE_CHECKING:
    from cogen.base import Base

MIXED = ("replay", "annealing")  # settings that hold a path; manifests hold the hash of the corpus instead


@dataclass(frozen=True)
class Mixture:
    """All text that a domain trains on.

    Args:
        corpora: name to corpus; their blocks alternate.
        replay, annealing: the corpora of the settings of these names.
        heldout_frac: share of documents held out in every corpus, also those of `replay` and `annealing`.
        validation_frac: share of documents of `corpora` reserved for early stopping.
        bos: the BOS with which documents begin, if the tokenizer adds one.
    """

    corpora: Mapping[str, Prepared]
    replay: Prepared | None
    annealing: Prepared | None
    heldout_frac: float
    validation_frac: float = 0.0
    bos: int | None = None

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of the corpora that are mixed in, for the manifest."""
        found = {name: getattr(self, name) for name in MIXED}
        return {f"{name}_sha256": corpus.sha256 for name, corpus in found.items() if corpus is not None}

    @property
    def accounts(self) -> dict[str, Account]:
        """What became of each corpus, those that are mixed in included."""
        mixed = {name: getattr(self, name) for name in MIXED}
        found = dict(self.corpora) | {name: corpus for name, corpus in mixed.items() if corpus is not None}
        return {name: Account.of_card(corpus.card) for name, corpus in found.items()}

    def validation(self) -> list[Document]:
        """The documents reserved for early stopping, of all corpora."""
        return [d for corpus in self.corpora.values() for d in corpus.validation]


def read_mixture(
    base: Base,
    corpora: Mapping[str, str | Path],
    settings: Train,
    heldout_frac: float,
    data: Data | None = None,
    progress: Progress | None = None,
    cache_dir: Path | None = None,
) -> Mixture:
    """Prepare the corpora and those that the settings mix in, or find them in the cache.

    Args:
        corpora: name to path.
        progress, cache_dir: see `prepare`.
    Raises:
        DataError: a corpus cannot be read, or has fewer than two documents.
    """
    validation_frac = settings.early_stop_frac if settings.early_stop_patience else 0.0
    prepared = partial(prepare_corpus, base, progress=progress, cache_dir=cache_dir)
    made = {n: prepared(p, data, heldout_frac, validation_frac=validation_frac) for n, p in corpora.items()}
    replay, annealing = (
        None if path is None else prepared(path, data, heldout_frac) for path in (settings.replay, settings.annealing)
    )
    return Mixture(made, replay, annealing, heldout_frac, validation_frac, leading_id(base.tokenizer))


def make_stream(mixture: Mixture, settings: Train, total_blocks: int) -> Stream:
    """The training blocks of the whole run; a block depends on its index alone.

    Args:
        total_blocks: blocks of all rounds, at whose end the annealing phase is.
    """
    pack = partial(PackedStream, sequence_length=settings.sequence_length, seed=settings.seed, bos=mixture.bos)
    replay, annealing = (None if c is None else pack(c.train) for c in (mixture.replay, mixture.annealing))
    return mix_streams(own_streams(mixture, settings), replay, annealing, settings, total_blocks)


def own_streams(mixture: Mixture, settings: Train) -> list[Stream]:
    """The blocks of each corpus of the domain, without what is mixed in."""
    size, seed = settings.sequence_length, settings.seed
    return [PackedStream(corpus.train, size, seed, mixture.bos) for corpus in mixture.corpora.values()]


def mix_streams(
    own: Sequence[Stream], replay: Stream | None, annealing: Stream | None, settings: Train, total_blocks: int
) -> Stream:
    """Blocks of `own` in turn, with `replay` and `annealing` mixed in as `settings` say; see `make_stream`."""
    stream = own[0] if len(own) == 1 else InterleavedStream(own)
    if replay is not None:
        stream = MixedStream(stream, replay, settings.replay_frac)
    if annealing is not None:
        first = total_blocks - math.ceil(settings.annealing_frac * total_blocks - 1e-9)
        stream = MixedStream(stream, annealing, settings.annealing_mix, first)
    return stream


def state_key(base: Base, mixture: Mixture, settings: Train) -> str:
    """A hash of everything that a saved state depends on: only the same training has the same key."""
    schedule = settings.model_dump(exclude={"checkpoint_seconds", *MIXED})
    patterns = [list(schedule.pop(key).items()) for key in ("rank_pattern", "alpha_pattern")]  # their order counts
    about = [
        vars(base.info.fingerprint),
        base.precision,
        schedule,
        patterns,
        mixture.heldout_frac,
        [c.sha256 for c in mixture.corpora.values()],
        mixture.digests,
    ]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
