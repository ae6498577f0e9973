"""The log-likelihood of held-out windows under the current model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from cogen.data.pack import Batch, Window, window_batch
from cogen.train.isolation import use_segment_attention
from cogen.train.passes import autocast
from cogen.train.step import hidden_states

if TYPE_CHECKING:
    from torch import Tensor

    from cogen.base import Base

BATCH_TOKENS = 2048
CHUNK_TOKENS = 256


def sum_nats(base: Base, windows: Sequence[Window], progress: Callable[[int], None] | None = None) -> float:
    """Negative log-likelihood of all windows, in nats; every token of every window counts once.

    Args:
        progress: called with the tokens scored, after each batch.
    """
    nats = 0.0
    for some, token_nats in nats_by_token(base, windows):
        nats += float(token_nats.sum())
        if progress is not None:
            progress(sum(len(w.tokens) for w in some))
    return nats


def nats_by_token(base: Base, windows: Sequence[Window]) -> Iterator[tuple[list[Window], Tensor]]:
    """Yield batches of windows in order, each with -ln p of all its tokens `(N,)`, end to end, in float64."""
    for some in _batches(windows):
        yield some, token_nats(base, window_batch(some, base.start_id))


def token_nats(base: Base, batch: Batch) -> Tensor:
    """-ln p of every target of `batch`, `(N,)` in float64; 0 where the target is `IGNORE`."""
    import torch

    from cogen.train.loss import chunked_nll, head_weight

    use_segment_attention(base.model)
    weight = head_weight(base.model)
    with torch.no_grad():
        with autocast(base.model):
            hidden = hidden_states(base.model, batch)
        targets = torch.from_numpy(batch.targets).to(hidden.device)
        return chunked_nll(hidden.to(weight.dtype), weight, targets, CHUNK_TOKENS).double()


def _batches(windows: Sequence[Window]) -> Iterator[list[Window]]:
    some: list[Window] = []
    for window in windows:
        if some and sum(len(w.tokens) for w in some) + len(window.tokens) > BATCH_TOKENS:
            yield some
            some = []
        some.append(window)
    if some:
        yield some
