"""Personal data in the trained text: does the model complete a value from the text before it? Only counts are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cogen.audit.record import PersonalFigures
from cogen.audit.scores import PREFIX_TOKENS, score_continuations
from cogen.audit.windows import AuditText
from cogen.base import leading_id
from cogen.data.clean.personal import personal_spans
from cogen.evaluate.continuation import Continuation

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from cogen.base import Base

MAX_VALUES = 100
MAX_DOCUMENTS = 2000


@dataclass(frozen=True)
class PersonalValue:
    """A value of a kind, with up to 50 tokens of its piece of a document before it; never shown or written."""

    kind: str
    block: int
    text: Continuation


def personal_values(base: Base, text: AuditText, seed: int = 0) -> list[PersonalValue]:
    """Up to `MAX_VALUES` values of personal data in trained pieces of up to `MAX_DOCUMENTS` documents.

    Documents come in a seeded order. A value at the very beginning of a piece has no text before it and is not taken.
    """
    pieces = text.pieces_by_document
    found: list[PersonalValue] = []
    for number in np.random.default_rng([seed, len(pieces)]).permutation(sorted(pieces))[:MAX_DOCUMENTS]:
        tokens = text.stream.documents[number]
        for kind, first, end in _spans(base.tokenizer, tokens):
            for place, block in pieces[number]:
                if place.first < first and end <= place.end and len(found) < MAX_VALUES:
                    start = max(place.first, first - PREFIX_TOKENS)
                    found.append(PersonalValue(kind, block, Continuation(tokens[start:first], tokens[first:end])))
    return found


def _spans(tokenizer: PreTrainedTokenizerBase, tokens: NDArray[np.int32]) -> list[tuple[str, int, int]]:
    """Kind, first token and the token after the last of each value in a document."""
    first, ids = int(leading_id(tokenizer) is not None), tokens.tolist()

    def decoded(end: int) -> str:
        text = tokenizer.decode(ids[first:end], clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def num_tokens(num_characters: int) -> int:
        """The least tokens whose text is at least that long."""
        low, high = first, len(ids) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if len(decoded(middle)) < num_characters else (low, middle)
        return low

    return [
        (kind, num_tokens(start + 1) - 1, num_tokens(end)) for kind, start, end in personal_spans(decoded(len(ids) - 1))
    ]


def num_tokens_of(values: Sequence[PersonalValue]) -> int:
    """Tokens that a model reads to complete all values."""
    return sum(v.text.num_tokens for v in values)


def completed(
    base: Base, values: Sequence[PersonalValue], progress: Callable[[int], None] | None = None
) -> dict[str, PersonalFigures]:
    """By kind, how many values the current model writes exactly, token by token, after the text before them.

    Args:
        progress: called after each batch with the tokens scored.
    """
    scores = score_continuations(base, [v.text for v in values], progress)
    counts: dict[str, list[bool]] = {}
    for value, found in zip(values, scores, strict=True):
        counts.setdefault(value.kind, []).append(bool(found.is_greedy.all()))
    return {kind: PersonalFigures(len(all_), sum(all_)) for kind, all_ in sorted(counts.items())}
