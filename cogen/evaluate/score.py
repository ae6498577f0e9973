"""Bits per byte: negative log2-likelihood of held-out text over its UTF-8 bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from cogen.adapter import Adapter, Factors
from cogen.data.pack import Window
from cogen.errors import ConfigError, DataError
from cogen.evaluate.matrix import Cell, Evaluation
from cogen.train.likelihood import sum_nats
from cogen.train.lora import attached

if TYPE_CHECKING:
    from cogen.base import Base


def evaluate_adapters(
    base: Base,
    adapters: Mapping[str, Adapter],
    windows: Mapping[str, Sequence[Window]],
    *,
    progress: Callable[[str, str, int], None] | None = None,
) -> Evaluation:
    """Score the base and every adapter on every domain's held-out windows.

    Args:
        adapters: row name to adapter; `base` is scored first, without one.
        windows: domain to its windows (`heldout_windows`).
        progress: called with row, domain and tokens scored, after each batch.
    Raises:
        ContractMismatch: an adapter was made for another base.

    >>> windows = {"grid": heldout_windows(documents, base.tokenizer, 512, 8192)}  # doctest: +SKIP
    >>> evaluate_adapters(base, {"mine": adapter}, windows).bits_per_byte("mine", "grid")  # doctest: +SKIP
    """
    if "base" in adapters:
        raise ConfigError("cannot score", expected="another name", got="an adapter called base", fix="Rename it.")
    for name, adapter in adapters.items():
        base.info.require(adapter, name)
    cells: list[Cell] = []
    rows: dict[str, Mapping[str, Factors] | None] = {"base": None}
    rows.update({name: adapter.factors for name, adapter in adapters.items()})
    for row, factors in rows.items():
        cells.extend(score_row(base, factors, windows, row, progress))
    return Evaluation(tuple(cells))


def score_row(
    base: Base,
    factors: Mapping[str, Factors] | None,
    windows: Mapping[str, Sequence[Window]],
    row: str,
    progress: Callable[[str, str, int], None] | None = None,
) -> list[Cell]:
    """Score one model on every column; None for `factors` is the base as it is."""
    with attached(base.model, factors) if factors else nullcontext():
        return [
            score_windows(base, scored, row, column, None if progress is None else _bind(progress, row, column))
            for column, scored in windows.items()
        ]


def _bind(progress: Callable[[str, str, int], None], row: str, domain: str) -> Callable[[int], None]:
    return lambda num_tokens: progress(row, domain, num_tokens)


def score_windows(
    base: Base,
    windows: Sequence[Window],
    model: str,
    domain: str,
    progress: Callable[[int], None] | None = None,
) -> Cell:
    """Score whatever is attached to the base now; every token of every window counts once.

    bpb = sum of -log2 p(token | EOS and the window so far) / UTF-8 bytes of the windows.

    Raises:
        DataError: there is no window.
    """
    if not windows:
        raise DataError(
            "cannot score", expected="held-out text", got="none", where=domain, fix="Hold out more documents."
        )
    nats = sum_nats(base, windows, progress)
    num_bytes = sum(w.num_bytes for w in windows)
    return Cell(model, domain, nats / math.log(2.0) / num_bytes, num_bytes, sum(len(w.tokens) for w in windows))
