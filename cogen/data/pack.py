"""Packing documents into blocks of T tokens, with EOS after each document; no token is lost or repeated.

A document begins with BOS if the tokenizer adds one to a text, as those of Llama 3 and Gemma do.

Training reads an endless stream: epoch after epoch, each in its own seeded order, cut every T tokens. A block has the
lengths of its segments (whole or partial documents); attention and positions restart in each segment. With BOS, the
cut is every T - 1 tokens, and BOS comes before a block that begins inside a document, since a model such as Gemma
predicts badly without it. Evaluation reads windows, each predicted from BOS, or from EOS if there is no BOS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cogen.base import leading_id
from cogen.data.document import Document
from cogen.data.store import TokenStore
from cogen.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

IGNORE = -100
# Text is text: "<eos>" spelled out in a document does not become the EOS token.
PLAIN = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}


@dataclass(frozen=True)
class Batch:
    """Segments end to end; `tokens` and `targets` are `(N,)`, with target IGNORE where nothing is predicted."""

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    lengths: tuple[int, ...]

    @property
    def num_predicted(self) -> int:
        """Tokens that are predicted: those with a target."""
        return int(np.count_nonzero(self.targets != IGNORE))


@dataclass(frozen=True)
class Place:
    """A piece of a document: its tokens `first` to `end` - 1."""

    document: int
    first: int
    end: int


class PackedStream:
    """Random access to the blocks of the endless stream over `documents`, each ending in EOS.

    Args:
        documents: token ids `(n_i,)` each, the last of them EOS.
        sequence_length: T.
        seed: seed of the order of documents, which differs in each epoch.
        bos: put before a block that begins inside a document; None where the documents have no BOS.
    """

    def __init__(
        self, documents: Sequence[NDArray[np.int32]], sequence_length: int, seed: int, bos: int | None = None
    ) -> None:
        self.documents = documents
        self.sequence_length = sequence_length
        self.seed = seed
        self.bos = bos
        self.text_tokens = sequence_length - (bos is not None)
        self.lengths = _lengths(documents)
        self.epoch_tokens = int(self.lengths.sum())
        self._orders: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def segments(self, index: int) -> list[NDArray[np.int32]]:
        """The pieces of documents in block `index`, in order; their lengths add up to T, or with `bos` to T - 1 or T."""
        pieces: list[NDArray[np.int32]] = []
        for place in self.places(index):
            piece = self.documents[place.document][place.first : place.end]
            # A lone EOS stays alone: after BOS it would teach that documents are empty.
            if self.bos is not None and place.first > 0 and len(piece) > 1:
                piece = np.concatenate((np.array([self.bos], piece.dtype), piece))
            pieces.append(piece)
        return pieces

    def places(self, index: int) -> list[Place]:
        """Where the pieces of block `index` are; reads no document."""
        position, end = index * self.text_tokens, (index + 1) * self.text_tokens
        found: list[Place] = []
        while position < end:
            epoch, offset = divmod(position, self.epoch_tokens)
            order, starts = self._order(epoch)
            at = int(np.searchsorted(starts, offset, side="right")) - 1
            document, first = int(order[at]), offset - int(starts[at])
            last = min(int(self.lengths[document]), first + end - position)
            found.append(Place(document, first, last))
            position += last - first
        return found

    def document_places(self, document: int) -> list[tuple[Place, int]]:
        """The pieces of a document in the first epoch, and the block of each; reads no document."""
        order, starts = self._order(0)
        start, length = int(starts[np.flatnonzero(order == document)[0]]), int(self.lengths[document])
        edges = range(start // self.text_tokens + 1, -(-(start + length) // self.text_tokens))
        cuts = [0, *(block * self.text_tokens - start for block in edges), length]
        return [(Place(document, a, b), (start + a) // self.text_tokens) for a, b in pairwise(cuts)]

    def num_documents(self, first: int, num_blocks: int) -> int:
        """How many different documents the blocks from `first` on have a piece of."""
        position, end = first * self.text_tokens, (first + num_blocks) * self.text_tokens
        if end - position >= 2 * self.epoch_tokens:  # a whole epoch is among them
            return len(self.documents)
        found: set[int] = set()
        while position < end:
            epoch, offset = divmod(position, self.epoch_tokens)
            order, starts = self._order(epoch)
            last = min(self.epoch_tokens, offset + end - position)
            low = int(np.searchsorted(starts, offset, side="right")) - 1
            high = int(np.searchsorted(starts, last, side="left"))
            found.update(order[low:high].tolist())
            position += last - offset
        return len(found)

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if epoch not in self._orders:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.documents))
            lengths = self.lengths[order]
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = (order, np.concatenate(([0], np.cumsum(lengths)[:-1])))
        return self._orders[epoch]


def _lengths(documents: Sequence[NDArray[np.int32]]) -> NDArray[np.int64]:
    """The length of each document; a store knows the lengths without reading documents."""
    known = documents.lengths if isinstance(documents, TokenStore) else [len(d) for d in documents]
    return np.asarray(known, dtype=np.int64)


class InterleavedStream:
    """Blocks of several streams alternately, so that each gives the same number of tokens."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self.streams = streams
        self.sequence_length = streams[0].sequence_length

    def segments(self, index: int) -> list[NDArray[np.int32]]:
        """The pieces of documents in block `index`."""
        number, which = divmod(index, len(self.streams))
        return self.streams[which].segments(number)


class Stream(Protocol):
    """Blocks of T tokens by index."""

    sequence_length: int

    def segments(self, index: int) -> list[NDArray[np.int32]]: ...


class MixedStream:
    """`main` with blocks of `other` spread evenly among its own; both are read in order, and no block is skipped.

    Of the first n blocks from `first_block` on, round(n * share) are from `other`. There is no randomness: every
    stretch has its share to within one block, and the origin of a block depends on its index alone.

    Args:
        share: share of blocks from `other`, in (0, 1].
        first_block: where mixing begins; all blocks before are from `main`.
    Source: error diffusion (Bresenham 1965), in closed form.
    """

    def __init__(self, main: Stream, other: Stream, share: float, first_block: int = 0) -> None:
        self.main, self.other = main, other
        self.share = Fraction(repr(share))  # the decimal 0.05 exactly: binary rounding would drift
        self.first_block = first_block
        self.sequence_length = main.sequence_length

    def segments(self, index: int) -> list[NDArray[np.int32]]:
        """The pieces of documents in block `index`."""
        before = self.num_other(index)
        if self.num_other(index + 1) > before:
            return self.other.segments(before)
        return self.main.segments(index - before)

    def num_other(self, num_blocks: int) -> int:
        """How many of the first `num_blocks` blocks are from `other`."""
        return math.floor(max(0, num_blocks - self.first_block) * self.share + Fraction(1, 2))


def step_batches(stream: Stream, first: int, num_blocks: int, num_parts: int) -> list[Batch]:
    """The blocks of a step in up to `num_parts` batches, whose sizes differ by at most one block; none for no blocks."""
    parts = min(num_parts, num_blocks)
    edges = [first + num_blocks * k // parts for k in range(parts + 1)] if parts else []
    return [train_batch(stream, a, b - a) for a, b in pairwise(edges)]


def train_batch(stream: Stream, first: int, num_blocks: int) -> Batch:
    """Blocks `first` to `first + num_blocks - 1`, end to end; a segment's last token predicts nothing."""
    pieces = [p for i in range(first, first + num_blocks) for p in stream.segments(i)]
    targets = [np.append(p[1:], IGNORE) for p in pieces]
    return Batch(
        tokens=np.concatenate(pieces).astype(np.int64),
        targets=np.concatenate(targets).astype(np.int64),
        lengths=tuple(len(p) for p in pieces),
    )


@dataclass(frozen=True)
class Window:
    """Up to T tokens of a held-out document, and the UTF-8 bytes of their text."""

    tokens: NDArray[np.int32]
    num_bytes: int


def tokenize(documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase) -> list[NDArray[np.int32]]:
    """Token ids of each document, ending in EOS, and beginning with BOS if the tokenizer adds one."""
    bos = leading_id(tokenizer)
    first, eos = [] if bos is None else [bos], tokenizer.eos_token_id
    ids = tokenizer([d.text for d in documents], **PLAIN)["input_ids"]
    return [np.array([*first, *i, eos], dtype=np.int32) for i in ids]


def heldout_windows(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, sequence_length: int, max_tokens: int
) -> list[Window]:
    """Windows of the held-out documents, until `max_tokens` is reached.

    The first windows of all documents come before any second window, so that a small budget still covers as many
    documents as possible.

    Raises:
        ConfigError: a window or a budget of no token.
    """
    if min(sequence_length, max_tokens) < 1:
        got = f"{sequence_length} and {max_tokens}"
        expected = "a window and a budget of 1 token or more"
        raise ConfigError("cannot score text", expected=expected, got=got, fix="Raise them.")
    by_document = [_windows(d.text, tokenizer, sequence_length) for d in documents]
    chosen: list[Window] = []
    left = max_tokens
    for number in range(max((len(w) for w in by_document), default=0)):
        for windows in by_document:
            if number < len(windows) and left > 0:
                chosen.append(windows[number])
                left -= len(windows[number].tokens)
    return chosen


def window_batch(windows: Sequence[Window], start_id: int) -> Batch:
    """Inputs `[start, w_0 .. w_n-2]` with targets `[w_0 .. w_n-1]`: every token of a window is scored once.

    Args:
        start_id: `Base.start_id`, which is not part of the text and is not predicted.
    """
    tokens = [np.concatenate(([start_id], w.tokens[:-1])) for w in windows]
    return Batch(
        tokens=np.concatenate(tokens).astype(np.int64),
        targets=np.concatenate([w.tokens for w in windows]).astype(np.int64),
        lengths=tuple(len(w.tokens) for w in windows),
    )


def _windows(text: str, tokenizer: PreTrainedTokenizerBase, sequence_length: int) -> list[Window]:
    """Cut after T tokens, or earlier where that would split a character; bytes add up to those of the text."""
    encoded = tokenizer(text, **PLAIN, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    cuts = [0]
    while cuts[-1] < len(ids):
        cut = min(cuts[-1] + sequence_length, len(ids))
        while cut < len(ids) and cut > cuts[-1] + 1 and offsets[cut][0] < offsets[cut - 1][1]:
            cut -= 1
        cuts.append(cut)
    edges = [0, *(offsets[c][0] for c in cuts[1:-1]), len(text)]
    return [
        Window(np.array(ids[a:b], dtype=np.int32), len(text[i:j].encode()))
        for a, b, i, j in zip(cuts, cuts[1:], edges, edges[1:], strict=False)
    ]
