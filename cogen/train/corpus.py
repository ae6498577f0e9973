"""A corpus as one base reads it: prepared by its tokenizer, and where asked for, judged by its weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.config import Data
from cogen.data import Prepared
from cogen.data.prepare import prepare
from cogen.data.spool import Progress
from cogen.train.perplexity import WINDOW_TOKENS, judge

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
    settings, contract = settings or Data(), base.info.contract
    judged = settings.perplexity_filter
    return prepare(
        path,
        lambda: base.tokenizer,
        settings,
        heldout_frac,
        validation_frac=validation_frac,
        tokenizer_hash=contract.tokenizer,
        base=base.info.name,
        judge=partial(judge, base) if judged else None,
        judge_hash=f"{contract.weights} {base.precision} {WINDOW_TOKENS}" if judged else "",
        progress=progress,
    )
