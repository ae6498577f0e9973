"""Which part of a corpus is scored: all of it, or the held-out part where a scored adapter was trained on the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.adapter import Adapter
from cogen.adapter.trained_on import TrainedCorpus, trained_corpora
from cogen.config import Data, RunConfig, load_config
from cogen.data import Document, Prepared, read_corpus
from cogen.data.account import Account
from cogen.data.run_metadata import RunMetadata
from cogen.data.spool import Progress
from cogen.errors import DataError, RunError
from cogen.records import validated
from cogen.runs import CONFIG, RUN_METADATA
from cogen.train.corpus import prepare_corpus

if TYPE_CHECKING:
    from cogen.base import Base


@dataclass(frozen=True)
class ScoredPart:
    """The documents of a corpus that are scored, in words which part these are and why, and what became of the corpus."""

    documents: tuple[Document, ...]
    part: str
    reason: str
    account: Account

    def __str__(self) -> str:
        return f"scoring {self.part}, {len(self.documents)} documents, {self.reason}"


def choose_part(
    base: Base,
    path: str,
    trained: Mapping[str, list[TrainedCorpus]],
    heldout_frac: float | None = None,
    progress: Progress | None = None,
) -> ScoredPart:
    """The whole corpus, unless one of the adapters was trained on it: then only what that training held out.

    A corpus is recognised by preparing it as the training did and comparing sha256. Where several adapters were
    trained on it, the smallest held-out part is taken, which is part of the larger ones.

    Args:
        trained: adapter to the corpora that it was trained on.
        heldout_frac: forces a fraction, whatever the adapters were trained on; 1 is the whole corpus.
    Raises:
        DataError: the corpus cannot be read, or is too small for the forced fraction.
        ConfigError: an adapter was trained with data settings that this version does not have.
    """
    if heldout_frac is not None and heldout_frac < 1.0:
        held = prepare_corpus(base, path, heldout_frac=heldout_frac, progress=progress)
        why = f"because of --heldout-frac {heldout_frac:g}"
        return ScoredPart(held.heldout, "the held-out part", why, Account.of_card(held.card))
    if heldout_frac is None:
        pairs = [(corpus, name) for name, corpora in trained.items() for corpus in corpora]
        for corpus, name in sorted(pairs, key=lambda pair: pair[0].heldout_frac):
            if (made := as_trained(base, path, corpus, name, progress)) is not None:
                part = f"the held-out part ({corpus.heldout_frac:.3g})"
                why = f"because {name} was trained on this corpus"
                return ScoredPart(made.heldout, part, why, Account.of_card(made.card))
    why = "of --heldout-frac 1" if heldout_frac is not None else "no adapter's manifest says that it was trained on it"
    found = read_corpus(path)
    return ScoredPart(found.documents, "the whole corpus", f"because {why}", Account.of_corpus(found, path))


def as_trained(base: Base, path: str, corpus: TrainedCorpus, name: str, progress: Progress | None) -> Prepared | None:
    """The corpus at `path` as training prepared it; None if `path` is another one.

    Args:
        name: of the adapter, for errors.
    Raises:
        ConfigError: it was trained with data settings that this version does not have.
    """
    data = validated(Data, corpus.data, f"[data] in the manifest of {name}")
    try:
        made = prepare_corpus(
            base, path, data, corpus.heldout_frac, validation_frac=corpus.validation_frac, progress=progress
        )
    except DataError:  # one that cannot be prepared so was not trained on; reading the whole of it says what is wrong
        return None
    return made if made.card.sha256 == corpus.sha256 else None


def corpora_of(base: Base, adapter: Adapter, folder: str | Path) -> list[TrainedCorpus]:
    """The corpora that an adapter in `folder` was trained on: by its manifest, else by its simulation's run folder.

    A domain's reply and a round's combined adapter name no corpus, since a server sees none. A simulation's own
    folder knows them.
    """
    found = trained_corpora(adapter.manifest, str(folder))
    if found:
        return found
    for place in Path(folder).resolve().parents:
        if (place / RUN_METADATA).is_file() and (place / CONFIG).is_file():
            return _corpora_of_run(base, adapter, place)
    return []


def _corpora_of_run(base: Base, adapter: Adapter, run: Path) -> list[TrainedCorpus]:
    """Those of all domains, or, of an expert that was trained alone, of its own domain; and what is mixed in."""
    config = load_config(run / CONFIG)
    path = run / RUN_METADATA
    try:
        hashes = {name: amounts.sha256 for name, amounts in RunMetadata.load(path).data.items()}
    except RunError as error:
        fix = "Say with --heldout-frac which part to score."
        raise RunError("cannot read run", expected="data hashes", got=error.reason, where=str(path), fix=fix) from None
    own = adapter.manifest.get("domain") if adapter.manifest.get("kind") == "expert" else None
    frac, data = config.evaluate.heldout_frac, config.data.model_copy(update={"perplexity_filter": False})
    chosen = [sha256 for name, sha256 in hashes.items() if own in (None, name)]
    return [TrainedCorpus(sha256, frac, 0.0, data.model_dump()) for sha256 in [*chosen, *_mixed_in(base, config, data)]]


def _mixed_in(base: Base, config: RunConfig, data: Data) -> list[str]:
    """sha256 of replayed and annealing text that is still on this machine."""
    paths = [path for path in (config.train.replay, config.train.annealing) if path is not None and Path(path).exists()]
    return [prepare_corpus(base, path, data, config.evaluate.heldout_frac).card.sha256 for path in paths]
