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
from cogen.evaluate.continuation import Continuation, batch_of, batches
from cogen.train.likelihood import TokenScores, token_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cogen.base import Base

MIN_K_FRAC = 0.2
PREFIX_TOKENS = CONTINUATION_TOKENS = 50


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
    first = [] if bos is None else [bos]
    read = [Continuation([*first, *t.context], t.tokens) for t in texts]
    found: dict[int, TokenScores] = {}
    for some in batches(read):
        batch = batch_of([read[i] for i in some])
        scores, end = token_scores(base, batch), 0
        for i in some:
            end += read[i].num_tokens
            begin = end - read[i].num_predicted
            found[i] = TokenScores(scores.nats[begin:end], scores.z[begin:end], scores.is_greedy[begin:end])
        if progress is not None:
            progress(sum(len(texts[i].context) + len(texts[i].tokens) for i in some))
    return [found[i] for i in range(len(texts))]


def compressed_bytes(base: Base, windows: Sequence[Excerpt]) -> NDArray[np.float64]:
    """Bytes of each window's text after zlib, `(n,)`: how much there is to predict without a model."""
    texts = base.tokenizer.batch_decode([w.tokens.tolist() for w in windows], clean_up_tokenization_spaces=False)
    return np.array([len(zlib.compress(text.encode())) for text in texts], dtype=np.float64)


def _num_first_true(values: Sequence[bool]) -> int:
    """How many values are true before the first that is not."""
    return next((i for i, value in enumerate(values) if not value), len(values))
