"""Which text a model was trained on, and windows of it and of text that it was not trained on.

Trained are the blocks of the domain's own stream, so the pieces of documents in them. Unseen are documents of which no
token was trained: those that are held out, and those of the training part that training did not reach. A hash of the
id and a seeded order decide which these are, so they are text of the same kind. Both kinds are cut like training
text: into blocks, and each piece of a document in a block into windows of equal length, without BOS and EOS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cogen.config import Train
from cogen.data.pack import PackedStream, Place
from cogen.errors import DataError
from cogen.train.mixture import mix_streams

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW_TOKENS = 128
MAX_WINDOWS = 128


@dataclass(frozen=True)
class Excerpt:
    """A window of one document.

    Args:
        document: its number in the corpus; held-out documents are numbered after the others.
        block: of the domain's own stream, for trained text.
        tokens: `(W,)`.
    """

    document: int
    block: int
    tokens: NDArray[np.int32]
    is_heldout: bool = False


@dataclass(frozen=True)
class AuditText:
    """One domain's text as it was trained on.

    Args:
        stream: the blocks of its own documents.
        blocks: those that were trained, in order.
        heldout: token ids of the held-out documents, each ending in EOS.
    """

    stream: PackedStream
    blocks: Sequence[int]
    heldout: Sequence[NDArray[np.int32]]

    @cached_property
    def trained_places(self) -> dict[Place, int]:
        """The pieces of documents that were trained, each token once, and the block of each."""
        return distinct_places(self.stream, self.blocks)

    @cached_property
    def pieces_by_document(self) -> dict[int, list[tuple[Place, int]]]:
        """The same by document."""
        found: dict[int, list[tuple[Place, int]]] = {}
        for place, block in self.trained_places.items():
            found.setdefault(place.document, []).append((place, block))
        return found


def window_tokens(sequence_length: int) -> int:
    """Tokens of a window: short enough that most blocks hold several."""
    return min(WINDOW_TOKENS, sequence_length // 2)


def trained_blocks(settings: Train, num_corpora: int, blocks: Iterable[int], total_blocks: int) -> list[list[int]]:
    """For each corpus, which blocks of its own stream are among `blocks` of the mixed one, in order.

    Args:
        settings, num_corpora, total_blocks: see `block_owners`.
    """
    owners = block_owners(settings, num_corpora, blocks, total_blocks)
    return [[number for corpus, number in owners if corpus == i] for i in range(num_corpora)]


def block_owners(settings: Train, num_corpora: int, blocks: Iterable[int], total_blocks: int) -> list[tuple[int, int]]:
    """The corpus that each of `blocks` of the training stream is from, and its number among that corpus's blocks.

    Args:
        settings: of the training; `replay` and `annealing` count by whether they are set, and are corpus `num_corpora`.
        total_blocks: blocks of all rounds.
    """
    own = [_Numbers(settings.sequence_length, i) for i in range(num_corpora)]
    other = _Numbers(settings.sequence_length, num_corpora)
    replay, annealing = (None if path is None else other for path in (settings.replay, settings.annealing))
    stream = mix_streams(own, replay, annealing, settings, total_blocks)
    pairs = [stream.segments(block)[0].tolist() for block in blocks]
    return [(corpus, number) for corpus, number in pairs]


class _Numbers:
    """A stream whose blocks say which corpus they are from, and their number."""

    def __init__(self, sequence_length: int, corpus: int) -> None:
        self.sequence_length, self.corpus = sequence_length, corpus

    def segments(self, index: int) -> list[NDArray[np.int32]]:
        return [np.array([self.corpus, index], dtype=np.int32)]


def distinct_places(stream: PackedStream, blocks: Iterable[int]) -> dict[Place, int]:
    """The pieces in `blocks`, and the block of each; of pieces that share a token only the first."""
    found: dict[Place, int] = {}
    known: dict[int, list[Place]] = {}
    for block in blocks:
        for place in stream.places(block):
            seen = known.setdefault(place.document, [])
            if all(place.first >= other.end or place.end <= other.first for other in seen):
                seen.append(place)
                found[place] = block
    return found


def member_windows(text: AuditText, num_tokens: int, most: int = MAX_WINDOWS, seed: int = 0) -> list[Excerpt]:
    """Up to `most` windows of trained text, from as many documents as possible.

    Raises:
        DataError: no piece of a document is that long.
    """
    pieces = text.pieces_by_document

    def windows_of(number: int) -> list[Excerpt]:
        return _cut(text.stream, number, pieces[number], num_tokens)

    return _require(_choose(sorted(pieces), windows_of, most, [seed, 0]), "trained", num_tokens)


def unseen_windows(text: AuditText, num_tokens: int, most: int = MAX_WINDOWS, seed: int = 0) -> list[Excerpt]:
    """Up to `most` windows of documents of which no token was trained, from as many documents as possible.

    Only as many documents are read as give a window.

    Raises:
        DataError: there is no such document that is that long.
    """
    stream, num = text.stream, len(text.stream.documents)
    held = PackedStream(text.heldout, stream.sequence_length, stream.seed, stream.bos) if text.heldout else stream
    unseen = [
        number for number in range(num) if number not in text.pieces_by_document and stream.lengths[number] > num_tokens
    ]

    def windows_of(number: int) -> list[Excerpt]:
        if number < num:
            return _cut(stream, number, stream.document_places(number), num_tokens)
        found = _cut(held, number - num, held.document_places(number - num), num_tokens)
        return [replace(window, document=number, is_heldout=True) for window in found]

    numbers = [*unseen, *range(num, num + len(text.heldout))]
    return _require(_choose(numbers, windows_of, most, [seed, 1]), "unseen", num_tokens)


def _cut(stream: PackedStream, number: int, pieces: Iterable[tuple[Place, int]], num_tokens: int) -> list[Excerpt]:
    """The windows of pieces of a document, without BOS and EOS."""
    document = stream.documents[number]
    return [
        Excerpt(number, block, document[start : start + num_tokens])
        for place, block in pieces
        for start in range(
            max(place.first, int(stream.bos is not None)),
            min(place.end, len(document) - 1) - num_tokens + 1,
            num_tokens,
        )
    ]


def _choose(
    numbers: Sequence[int], windows_of: Callable[[int], list[Excerpt]], most: int, seed: list[int]
) -> list[Excerpt]:
    """In turn one window of each document, both in a seeded order; at most `most` documents."""
    draw, queues = np.random.default_rng(seed), list[list[Excerpt]]()
    for number in draw.permutation(numbers).tolist():
        if windows := windows_of(number):
            queues.append([windows[i] for i in draw.permutation(len(windows))])
        if len(queues) == most:
            break
    return list(_in_turn(queues, most))


def _in_turn(queues: Sequence[Sequence[Excerpt]], most: int) -> Iterator[Excerpt]:
    left = most
    for number in range(max(map(len, queues), default=0)):
        for queue in queues:
            if number < len(queue) and left > 0:
                left -= 1
                yield queue[number]


def _require(found: list[Excerpt], kind: str, num_tokens: int) -> list[Excerpt]:
    if not found:
        expected = f"{kind} text with {num_tokens} tokens of a document in one block"
        raise DataError("cannot audit", expected=expected, got="none", fix="Audit a model of a larger corpus.")
    return found
