"""A corpus as one base reads it: prepared by its tokenizer, and where asked for, scored by its weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.config import Data
from cogen.data import Prepared
from cogen.data.prepare import prepare
from cogen.data.spool import Progress
from cogen.train.perplexity import WINDOW_TOKENS, score_documents

if TYPE_CHECKING:
    from cogen.base import Base


def prepare_corpus(
    base: Base,
    path: str | Path,
    settings: Data | None = None,
    heldout_frac: float = 0.05,
    *,
    validation_frac: float = 0.0,
    progress: Progress | None = None,
) -> Prepared:
    """`prepare` for this base.

    Raises:
        DataError: no such path, no documents, or too few to hold anything out.

    >>> prepare_corpus(load_base("smollm2-135m"), "seeds/grid.jsonl").num_train_tokens  # doctest: +SKIP
    """
    settings, fingerprint = settings or Data(), base.info.fingerprint
    scored = settings.perplexity_filter
    return prepare(
        path,
        lambda: base.tokenizer,
        settings,
        heldout_frac,
        validation_frac=validation_frac,
        tokenizer_hash=fingerprint.tokenizer,
        base=base.info.name,
        scorer=partial(score_documents, base) if scored else None,
        scorer_hash=f"{fingerprint.weights} {base.precision} {WINDOW_TOKENS}" if scored else "",
        progress=progress,
    )
