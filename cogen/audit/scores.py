"""What one model says of windows: one forward pass gives the scores of membership and the greedy continuation.

A window is read as in training: after BOS if the tokenizer adds one, else from its first token, which is not predicted.
A greedy continuation is the text itself as long as each next token is the most likely one after the text before it,
so nothing has to be generated.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cogen.audit.windows import Excerpt
from cogen.base import leading_id
from cogen.data.pack import IGNORE, Batch
from cogen.train.likelihood import BATCH_TOKENS, TokenScores, token_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cogen.base import Base

MIN_K_FRAC = 0.2
PREFIX_TOKENS = CONTINUATION_TOKENS = 50


@dataclass(frozen=True)
class Continuation:
    """Token ids: `tokens` are predicted after `context`."""

    context: NDArray[np.int32]
    tokens: NDArray[np.int32]

    @property
    def num_tokens(self) -> int:
        """Tokens that a model reads."""
        return len(self.context) + len(self.tokens)


@dataclass(frozen=True)
class WindowScores:
    """One model on n windows, `(n,)` each.

    Args:
        nats: mean -ln p of a token.
        min_k: mean of the lowest fifth of the tokens' standardised log-likelihoods.
        num_matched: tokens of the greedy continuation before the first that differs from the text.
    """

    nats: NDArray[np.float64]
    min_k: NDArray[np.float64]
    num_matched: NDArray[np.int64]

    def where(self, chosen: NDArray[np.bool_]) -> WindowScores:
        """The scores of some of the windows."""
        return WindowScores(self.nats[chosen], self.min_k[chosen], self.num_matched[chosen])


def split_tokens(window_tokens: int) -> tuple[int, int]:
    """Tokens of prefix and continuation in a window."""
    prefix = min(PREFIX_TOKENS, window_tokens // 2)
    return prefix, min(CONTINUATION_TOKENS, window_tokens - prefix)


def score_excerpts(
    base: Base, windows: Sequence[Excerpt], progress: Callable[[int], None] | None = None
) -> WindowScores:
    """Score windows under the base with the adapter that is attached to it now.

    Args:
        progress: called after each batch with the tokens scored.
    """
    nats, min_k, matched = [], [], []
    texts = [Continuation(w.tokens[:0], w.tokens) for w in windows]
    for window, found in zip(windows, score_continuations(base, texts, progress), strict=True):
        prefix, continued = split_tokens(len(window.tokens))
        lowest = np.sort(found.z.numpy())[: max(1, int(len(found.z) * MIN_K_FRAC))]
        nats.append(float(found.nats.mean()))
        min_k.append(float(lowest.mean()))
        first = prefix - (len(window.tokens) - len(found.nats))  # the first token may have no score
        matched.append(_num_first_true(found.is_greedy[first : first + continued].tolist()))
    return WindowScores(np.array(nats), np.array(min_k), np.array(matched, dtype=np.int64))


def score_continuations(
    base: Base, texts: Sequence[Continuation], progress: Callable[[int], None] | None = None
) -> list[TokenScores]:
    """The scores of every text's `tokens`; a first token without anything before it has none."""
    bos = leading_id(base.tokenizer)
    first = np.array([] if bos is None else [bos], dtype=np.int32)
    found: list[TokenScores] = []
    for some in _batches(texts):
        batch = _batch([Continuation(np.concatenate((first, t.context)), t.tokens) for t in some])
        scores, start = token_scores(base, batch), 0
        for text, length in zip(some, batch.lengths, strict=True):
            end = start + length - 1  # the last position predicts nothing
            begin = end - min(len(text.tokens), length - 1)
            found.append(TokenScores(scores.nats[begin:end], scores.z[begin:end], scores.is_greedy[begin:end]))
            start += length
        if progress is not None:
            progress(sum(t.num_tokens for t in some))
    return found


def compressed_bytes(base: Base, windows: Sequence[Excerpt]) -> NDArray[np.float64]:
    """Bytes of each window's text after zlib, `(n,)`: how much there is to predict without a model."""
    texts = base.tokenizer.batch_decode([w.tokens.tolist() for w in windows], clean_up_tokenization_spaces=False)
    return np.array([len(zlib.compress(text.encode())) for text in texts], dtype=np.float64)


def _num_first_true(values: Sequence[bool]) -> int:
    """How many values are true before the first that is not."""
    return next((i for i, value in enumerate(values) if not value), len(values))


def _batches(texts: Sequence[Continuation]) -> list[list[Continuation]]:
    found: list[list[Continuation]] = []
    room = 0
    for text in texts:
        if text.num_tokens > room or not found:
            found.append([])
            room = BATCH_TOKENS
        found[-1].append(text)
        room -= text.num_tokens
    return found


def _batch(texts: Sequence[Continuation]) -> Batch:
    """Texts end to end; only their `tokens` are predicted."""
    tokens = [np.concatenate((t.context, t.tokens)) for t in texts]
    targets = []
    for text, ids in zip(texts, tokens, strict=True):
        wanted = np.append(ids[1:], IGNORE).astype(np.int64)
        wanted[: max(0, len(text.context) - 1)] = IGNORE
        targets.append(wanted)
    return Batch(np.concatenate(tokens).astype(np.int64), np.concatenate(targets), tuple(len(ids) for ids in tokens))
