"""What is trained on: the corpora in turns, general text replayed among them, another mix at the end."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cogen.config import Train
from cogen.data import Corpus, Document, PackedStream, read_corpus, split_documents, tokenize
from cogen.data.pack import InterleavedStream, MixedStream, Stream
from cogen.data.split import validation_documents
from cogen.errors import DataError

if TYPE_CHECKING:
    from cogen.base import Base

MIXED = ("replay", "end_phase")  # settings that name a corpus: its hash says more than its path


@dataclass(frozen=True)
class Mixture:
    """All that a domain trains on, and how much of it is held out.

    Args:
        corpora: name to corpus, taking turns block by block.
        replay, end_phase: those that the settings of these names point at.
        heldout_frac: of the documents of each, replayed ones too.
        validation_frac: of the documents of `corpora`, set aside for stopping early.
    """

    corpora: Mapping[str, Corpus]
    replay: Corpus | None
    end_phase: Corpus | None
    heldout_frac: float
    validation_frac: float = 0.0

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of what is mixed in, as the manifest has it."""
        found = {name: getattr(self, name) for name in MIXED}
        return {f"{name}_sha256": corpus.sha256() for name, corpus in found.items() if corpus is not None}

    def validation(self) -> list[Document]:
        """The documents set aside for stopping early, of all corpora."""
        fracs = (self.heldout_frac, self.validation_frac)
        return [d for name, c in self.corpora.items() for d in validation_documents(c.documents, *fracs, name)]


def read_mixture(corpora: Mapping[str, Corpus], settings: Train, heldout_frac: float) -> Mixture:
    """The corpora and what the settings mix in, read from disk.

    Raises:
        DataError: what is mixed in cannot be read.
    """
    replay, end_phase = (None if path is None else read_corpus(path) for path in (settings.replay, settings.end_phase))
    aside = settings.early_stop_frac if settings.early_stop_patience else 0.0
    return Mixture(corpora, replay, end_phase, heldout_frac, aside)


def make_stream(base: Base, mixture: Mixture, settings: Train, total_blocks: int) -> Stream:
    """The training blocks of the whole run, each of whose indices says what it is made of.

    Args:
        total_blocks: of all rounds, since the end phase is their end.
    Raises:
        DataError: a corpus is too small to hold anything out.
    """
    streams = [_packed(base, _training_part(mixture, name), settings) for name in mixture.corpora]
    stream: Stream = streams[0] if len(streams) == 1 else InterleavedStream(streams)
    if mixture.replay is not None:
        part = split_documents(mixture.replay.documents, mixture.heldout_frac, "replay").train
        stream = MixedStream(stream, _packed(base, part, settings), settings.replay_frac)
    if mixture.end_phase is not None:
        part = split_documents(mixture.end_phase.documents, mixture.heldout_frac, "end_phase").train
        first = total_blocks - math.ceil(settings.end_phase_frac * total_blocks - 1e-9)
        stream = MixedStream(stream, _packed(base, part, settings), settings.end_phase_mix, first)
    return stream


def _training_part(mixture: Mixture, name: str) -> Sequence[Document]:
    documents = mixture.corpora[name].documents
    train = split_documents(documents, mixture.heldout_frac, name).train
    if not mixture.validation_frac:
        return train
    aside = {d.id for d in validation_documents(documents, mixture.heldout_frac, mixture.validation_frac, name)}
    kept = [d for d in train if d.id not in aside]
    if not kept:
        raise DataError(
            "corpus too small to stop early on",
            expected="at least one training document beside held-out and validation ones",
            got=f"none of {len(documents)}",
            where=name,
            fix="Add documents or lower train.early_stop_frac.",
        )
    return kept


def _packed(base: Base, documents: Sequence[Document], settings: Train) -> PackedStream:
    return PackedStream(tokenize(documents, base.tokenizer), settings.block_tokens, settings.seed)


def state_key(base: Base, mixture: Mixture, settings: Train) -> str:
    """Changes whenever a saved state would not continue the same training."""
    schedule = settings.model_dump(exclude={"checkpoint_seconds", *MIXED})
    patterns = [list(schedule.pop(key).items()) for key in ("rank_pattern", "alpha_pattern")]  # their order counts
    about = [
        vars(base.info.contract),
        str(base.model.dtype),
        schedule,
        patterns,
        mixture.heldout_frac,
        [c.sha256() for c in mixture.corpora.values()],
        mixture.digests,
    ]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
