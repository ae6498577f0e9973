"""Log-likelihood of a text as the continuation of a context."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cogen.base import leading_ids
from cogen.data.pack import IGNORE, PLAIN, Batch
from cogen.errors import DataError
from cogen.train.likelihood import BATCH_TOKENS, token_nats

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from cogen.base import Base


@dataclass(frozen=True)
class Continuation:
    """Token ids of a context and of the text after it; of a text without a context, the first token is not predicted."""

    context: Sequence[int] | NDArray[np.int32]
    tokens: Sequence[int] | NDArray[np.int32]

    @property
    def num_tokens(self) -> int:
        """Number of tokens that the model reads."""
        return len(self.context) + len(self.tokens) - 1

    @property
    def num_predicted(self) -> int:
        """Number of tokens that the model predicts."""
        return min(len(self.tokens), self.num_tokens)


def encode_pair(tokenizer: PreTrainedTokenizerBase, context: str, text: str) -> Continuation:
    """Encode context and text together and split after the tokens of the context, as lm-evaluation-harness does.

    Spaces at the end of the context belong to the text. The only special tokens are those that the tokenizer itself
    puts in front (some a BOS). Unlike for bits per byte, no EOS is put there in their place.

    Raises:
        DataError: the text adds no token to the context.
    """
    first, stripped = leading_ids(tokenizer), context.rstrip()
    before = [*first, *tokenizer(stripped, **PLAIN)["input_ids"]]
    tokens = [*first, *tokenizer(context + text, **PLAIN)["input_ids"]][len(before) :]
    if not before or not tokens:
        raise DataError(
            "cannot score",
            expected="a context of one token or more, and a text that adds tokens to it",
            got=f"{context!r} and {text!r}",
            fix="Change the wording of the probe.",
        )
    return Continuation(tuple(before), tuple(tokens))


def log_likelihoods(
    base: Base, pairs: Sequence[Continuation], progress: Callable[[int], None] | None = None
) -> list[float]:
    """ln p(tokens | context) of each pair, in nats, with the adapter that is attached to the base now.

    Pairs are packed without padding, the longest first, and do not attend to each other.

    Args:
        progress: called after each batch with the number of tokens read.
    Raises:
        ConfigError: a pair is longer than the context of the base.
    """
    longest = max((pair.num_tokens for pair in pairs), default=0)
    base.info.require_context(longest, "a probe's context and choice", "Shorten the probe.")
    found = [0.0] * len(pairs)
    for some in batches(pairs):
        batch = batch_of([pairs[i] for i in some])
        nats = token_nats(base, batch)
        for i, piece in zip(some, nats.split(batch.lengths), strict=True):  # type: ignore[no-untyped-call]
            found[i] = -float(piece.sum())
        if progress is not None:
            progress(sum(batch.lengths))
    return found


def batches(texts: Sequence[Continuation]) -> Iterator[list[int]]:
    """Indices of texts, the longest first, so that memory runs out in the first batch or never."""
    some: list[int] = []
    room = BATCH_TOKENS
    for i in sorted(range(len(texts)), key=lambda i: -texts[i].num_tokens):
        if some and texts[i].num_tokens > room:
            yield some
            some, room = [], BATCH_TOKENS
        some.append(i)
        room -= texts[i].num_tokens
    if some:
        yield some


def batch_of(texts: Sequence[Continuation]) -> Batch:
    """Texts as one batch, end to end: tokens of a context are not predicted, and the last token predicts nothing."""
    whole = [np.array([*t.context, *t.tokens], dtype=np.int64) for t in texts]
    targets = [tokens[1:].copy() for tokens in whole]
    for text, wanted in zip(texts, targets, strict=True):
        wanted[: len(wanted) - text.num_predicted] = IGNORE
    return Batch(
        tokens=np.concatenate([tokens[:-1] for tokens in whole]),
        targets=np.concatenate(targets),
        lengths=tuple(t.num_tokens for t in texts),
    )
