"""How likely held-out windows are to the model as it is now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from cogen.data.pack import Window, window_batch
from cogen.train.attention import use_segment_attention
from cogen.train.loop import hidden_states, make_accelerator
from cogen.train.loss import chunked_nll, head_weight

if TYPE_CHECKING:
    from cogen.base import Base

BATCH_TOKENS = 2048
CHUNK_TOKENS = 256


def sum_nats(base: Base, windows: Sequence[Window], progress: Callable[[int], None] | None = None) -> float:
    """Negative log-likelihood of all windows, in nats; every token of every window counts once.

    Args:
        progress: called with the tokens scored, after each batch.
    """
    import torch

    use_segment_attention(base.model)
    accelerator = make_accelerator(base)
    weight = head_weight(base.model)
    nats = 0.0
    with torch.no_grad():
        for some in _batches(windows):
            batch = window_batch(some, base.eos_id)
            with accelerator.autocast():
                hidden = hidden_states(base.model, batch)
            targets = torch.from_numpy(batch.targets).to(hidden.device)
            nats += float(chunked_nll(hidden.to(weight.dtype), weight, targets, CHUNK_TOKENS).double().sum())
            if progress is not None:
                progress(len(batch.tokens))
    return nats


def _batches(windows: Sequence[Window]) -> Iterator[list[Window]]:
    some: list[Window] = []
    for window in windows:
        if some and sum(len(w.tokens) for w in some) + len(window.tokens) > BATCH_TOKENS:
            yield some
            some = []
        some.append(window)
    if some:
        yield some
