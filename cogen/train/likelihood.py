"""The log-likelihood of held-out windows under the current model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cogen.data.pack import IGNORE, Batch, Window, window_batch
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

    weight = head_weight(base.model)
    hidden = _hidden(base, batch)
    with torch.no_grad():
        targets = torch.from_numpy(batch.targets).to(hidden.device)
        return chunked_nll(hidden.to(weight.dtype), weight, targets, CHUNK_TOKENS).double()


@dataclass(frozen=True)
class TokenScores:
    """Of each target `(N,)`, on the CPU in float64: its likelihood, and its place in the model's distribution.

    Args:
        nats: -ln p(target).
        z: (ln p(target) - mean) / standard deviation, both of ln p(token) over tokens drawn from the model.
        is_greedy: whether the target is the most likely token.
    All are 0 or False where the target is `IGNORE`.
    """

    nats: Tensor
    z: Tensor
    is_greedy: Tensor


def token_scores(base: Base, batch: Batch) -> TokenScores:
    """Likelihood, standardised likelihood and rank of every target of `batch`.

    Source of z: Zhang et al., Min-K%++ (arXiv 2404.02936).
    """
    import torch

    from cogen.train.loss import head_weight

    weight = head_weight(base.model)
    hidden = _hidden(base, batch).to(weight.dtype)
    targets = torch.from_numpy(batch.targets).to(hidden.device)
    nats, z = (torch.zeros(len(targets), dtype=torch.float64) for _ in range(2))
    is_greedy = torch.zeros(len(targets), dtype=torch.bool)
    with torch.no_grad():
        for rows in torch.split((targets != IGNORE).nonzero().squeeze(1), CHUNK_TOKENS):
            found = torch.log_softmax((hidden[rows] @ weight.T).float(), dim=1)
            chances = found.exp()
            mean = (chances * found).sum(1)
            deviation = (chances * (found - mean[:, None]).square_()).sum(1).sqrt()
            target = found.gather(1, targets[rows, None]).squeeze(1)
            at = rows.cpu()
            nats[at] = -target.double().cpu()
            z[at] = ((target - mean) / deviation.clamp_min(1e-6)).double().cpu()
            is_greedy[at] = (found.argmax(1) == targets[rows]).cpu()
    return TokenScores(nats, z, is_greedy)


def likeliest_tokens(base: Base, windows: Sequence[Window]) -> Tensor:
    """The most likely token at every place of all windows, end to end: `(N,)` ids on the CPU."""
    import torch

    from cogen.train.loss import head_weight

    found, weight = [], head_weight(base.model)
    for some in _batches(windows):
        hidden = _hidden(base, window_batch(some, base.start_id)).to(weight.dtype)
        with torch.no_grad():
            found += [(rows @ weight.T).argmax(1).cpu() for rows in torch.split(hidden, CHUNK_TOKENS)]
    return torch.cat(found)


def _hidden(base: Base, batch: Batch) -> Tensor:
    """Last hidden states `(N, d)`, without gradients."""
    import torch

    use_segment_attention(base.model)
    with torch.no_grad(), autocast(base.model):
        return hidden_states(base.model, batch)


def _batches(windows: Sequence[Window]) -> Iterator[list[Window]]:
    some: list[Window] = []
    for window in windows:
        if some and sum(len(w.tokens) for w in some) + len(window.tokens) > BATCH_TOKENS:
            yield some
            some = []
        some.append(window)
    if some:
        yield some
