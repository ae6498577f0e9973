"""What is trained on: the corpora in turns, general text replayed among them, another mix at the end."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.config import Data, Train
from cogen.data import Document, PackedStream, Prepared
from cogen.data.pack import InterleavedStream, MixedStream, Stream
from cogen.data.spool import Progress
from cogen.train.corpus import prepare_corpus

if TYPE_CHECKING:
    from cogen.base import Base

MIXED = ("replay", "annealing")  # settings that name a corpus: its hash says more than its path


@dataclass(frozen=True)
class Mixture:
    """All that a domain trains on, and how much of it is held out.

    Args:
        corpora: name to corpus, taking turns block by block.
        replay, annealing: those that the settings of these names point at.
        heldout_frac: of the documents of each, replayed ones too.
        validation_frac: of the documents of `corpora`, suspended for stopping early.
    """

    corpora: Mapping[str, Prepared]
    replay: Prepared | None
    annealing: Prepared | None
    heldout_frac: float
    validation_frac: float = 0.0

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of what is mixed in, as the manifest has it."""
        found = {name: getattr(self, name) for name in MIXED}
        return {f"{name}_sha256": corpus.sha256 for name, corpus in found.items() if corpus is not None}

    def validation(self) -> list[Document]:
        """The documents suspended for stopping early, of all corpora."""
        return [d for corpus in self.corpora.values() for d in corpus.validation]


def read_mixture(
    base: Base,
    corpora: Mapping[str, str | Path],
    settings: Train,
    heldout_frac: float,
    data: Data | None = None,
    progress: Progress | None = None,
) -> Mixture:
    """The corpora and what the settings mix in, prepared for `base`, or found prepared.

    Args:
        corpora: name to path.
        progress: called while one is prepared, see `prepare`.
    Raises:
        DataError: one cannot be read, or is too small to hold anything out.
    """
    aside = settings.early_stop_frac if settings.early_stop_patience else 0.0
    made = {
        n: prepare_corpus(base, p, data, heldout_frac, validation_frac=aside, progress=progress)
        for n, p in corpora.items()
    }
    replay, annealing = (
        None if path is None else prepare_corpus(base, path, data, heldout_frac, progress=progress)
        for path in (settings.replay, settings.annealing)
    )
    return Mixture(made, replay, annealing, heldout_frac, aside)


def make_stream(mixture: Mixture, settings: Train, total_blocks: int) -> Stream:
    """The training blocks of the whole run, each of whose indices says what it is made of.

    Args:
        total_blocks: of all rounds, since the end phase is their end.
    """
    streams = [_packed(corpus, settings) for corpus in mixture.corpora.values()]
    stream: Stream = streams[0] if len(streams) == 1 else InterleavedStream(streams)
    if mixture.replay is not None:
        stream = MixedStream(stream, _packed(mixture.replay, settings), settings.replay_frac)
    if mixture.annealing is not None:
        first = total_blocks - math.ceil(settings.annealing_frac * total_blocks - 1e-9)
        stream = MixedStream(stream, _packed(mixture.annealing, settings), settings.annealing_mix, first)
    return stream


def _packed(corpus: Prepared, settings: Train) -> PackedStream:
    return PackedStream(corpus.train, settings.sequence_length, settings.seed)


def state_key(base: Base, mixture: Mixture, settings: Train) -> str:
    """Changes whenever a saved state would not continue the same training."""
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
