"""A corpus as one base reads it: prepared by its tokenizer, and where asked for, judged by its weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.config import Data
from cogen.data import Document, Prepared, heldout_windows
from cogen.data.prepare import prepare
from cogen.data.spool import Progress
from cogen.train.likelihood import sum_nats

if TYPE_CHECKING:
    from cogen.base import Base

JUDGED_TOKENS = 256


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
        base.tokenizer,
        settings,
        heldout_frac,
        validation_frac=validation_frac,
        tokenizer_hash=contract.tokenizer,
        base=base.info.name,
        judge=partial(first_bits_per_byte, base) if judged else None,
        judge_hash=f"{contract.weights} {base.model.dtype} {JUDGED_TOKENS}" if judged else "",
        progress=progress,
    )


def first_bits_per_byte(base: Base, documents: Sequence[Document]) -> list[float]:
    """Bits per byte of each document's first JUDGED_TOKENS tokens, predicted from EOS."""
    windows = [heldout_windows([d], base.tokenizer, JUDGED_TOKENS, 1)[0] for d in documents]
    return [sum_nats(base, [w]) / math.log(2.0) / w.num_bytes for w in windows]
