"""The data card: what a corpus contained, what was kept and dropped and why, and the cost of training on it.

It holds numbers and the names of skipped files, but no text of a document and no personal data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cogen.data.clean.words import split_words
from cogen.errors import DataError
from cogen.records import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)

# Everyday English, whose tokens per word are compared with those of a domain.
GENERAL_SAMPLE = """\
The market opens early on Saturdays, long before the first buses run. Farmers from the valley bring apples, \
potatoes and bread, and a man with a grey dog sells honey from a folding table near the fountain. By nine the \
square is full of people who have come as much for the talk as for the food. Children chase each other between \
the stalls while their parents compare prices and complain about the weather, which has been too dry for most of \
the summer.

Maria has worked here for eleven years. She says that the customers have changed more than the vegetables: they \
ask where everything was grown, whether it can be frozen, and how their grandmothers might have cooked it. She \
keeps a notebook of recipes under the counter and copies one out for anybody who asks. When it rains she closes \
at noon, walks home along the river and spends the afternoon reading. Last week she finished a long novel about \
two brothers who build a boat, sail it across a lake and find out that neither of them really wanted to leave. \
She liked the ending, she said, because nothing was explained and yet everything was clear."""


@dataclass(frozen=True)
class Amount:
    """Documents and their UTF-8 bytes."""

    num_documents: int
    num_bytes: int

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.num_documents + other.num_documents, self.num_bytes + other.num_bytes)


@dataclass(frozen=True)
class Part:
    """One side of the split after cleaning; tokens include EOS, and BOS if the tokenizer adds one."""

    num_documents: int
    num_tokens: int
    num_bytes: int


@dataclass(frozen=True)
class Lengths:
    """Tokens of the documents: percentiles, and counts by powers of two.

    Args:
        percentiles: at 0, 5, 25, 50, 75, 95 and 100.
        counts: documents with 2^i to 2^(i+1) - 1 tokens, i from 0.
    """

    percentiles: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class SkippedFile:
    """A file, line, row or pages that gave no document, and why; with its bytes in the file."""

    file: str
    reason: str
    num_bytes: int = 0


@dataclass(frozen=True)
class FileNote:
    """What a user should know of a file that was read."""

    file: str
    text: str


@dataclass(frozen=True)
class CorpusCost:
    """The cost of training on the corpus with given settings; all except the adapter's size are estimates.

    Args:
        num_tokens: tokens of a round (`train.tokens_per_round`).
        minutes: for a round.
        epoch_minutes: for every training document once.
        adapter_mb: size of the factors in float32, exact except for the file's header.
    """

    num_tokens: int
    tokens_per_second: float
    minutes: float
    epoch_minutes: float
    peak_memory_mb: float
    adapter_mb: float


class DataCard(Record):
    """`card.json`: the card of one prepared corpus.

    Args:
        read: all documents before cleaning, kept and dropped ones.
        train, heldout: the two sides after cleaning; `heldout` includes validation documents.
        num_words: words after cleaning, like all numbers below.
        dropped: documents and bytes by reason, such as `exact duplicate` or `quality: stop words`.
        scripts: documents by the script whose words the quality rules measured, kept and dropped ones.
        num_boilerplate_bytes: UTF-8 bytes of the boilerplate lines removed.
        num_leaked: training documents that nearly repeat a held-out one; they are dropped unless data.leakage is off.
        personal_data: values found by kind; they are redacted only if data.redact is on.
        sha256: of the prepared content.
        num_file_bytes: bytes of all files that text may be in, unpacked where they are packed.
        num_lost_bytes: of these, in what was skipped.
        skipped: the first thousand of `num_skipped` files and lines.
        notes: the first thousand remarks on how files were read.
        special_per_document: tokens of a document besides its text: EOS, and BOS if the tokenizer adds one.
    """

    file_name = "card.json"
    error = DataError
    fix = "Prepare the data again."
    requires_all = True

    source: str
    base: str
    settings: Mapping[str, Any]
    heldout_frac: float
    num_files: int
    read: Amount
    train: Part
    heldout: Part
    num_words: int
    general_tokens_per_word: float
    lengths: Lengths
    sha256: str
    skipped: tuple[SkippedFile, ...] = ()
    num_skipped: int = 0
    num_file_bytes: int = 0
    num_lost_bytes: int = 0
    notes: tuple[FileNote, ...] = ()
    dropped: Mapping[str, Amount] = {}
    num_control_characters: int = 0
    num_boilerplate_lines: int = 0
    num_boilerplate_bytes: int = 0
    languages: Mapping[str, int] = {}
    scripts: Mapping[str, int] = {}
    personal_data: Mapping[str, int] = {}
    num_leaked: int = 0
    special_per_document: int = 1
    cost: CorpusCost | None = None
    format_version: Literal[3] = 3

    @property
    def num_tokens(self) -> int:
        """Tokens of both sides of the split, with EOS and BOS."""
        return self.train.num_tokens + self.heldout.num_tokens

    @property
    def num_documents(self) -> int:
        """Documents that were kept."""
        return self.train.num_documents + self.heldout.num_documents

    @property
    def tokens_per_word(self) -> float:
        """Tokens per word without EOS and BOS; far above `general_tokens_per_word`, the tokenizer knows few words of the domain."""
        return (self.num_tokens - self.special_per_document * self.num_documents) / max(1, self.num_words)


def count_words(text: str) -> int:
    """The number of words, for the card."""
    return len(split_words(text))


def general_tokens_per_word(tokenizer: PreTrainedTokenizerBase) -> float:
    """Tokens per word of everyday English, for comparison with a domain's."""
    ids = tokenizer(GENERAL_SAMPLE, add_special_tokens=False)["input_ids"]
    return len(ids) / count_words(GENERAL_SAMPLE)


def describe_lengths(num_tokens: Sequence[int] | NDArray[np.int64]) -> Lengths:
    """Percentiles (each the length of some document) and counts by powers of two.

    >>> describe_lengths([1, 2, 3, 900]).counts
    (1, 2, 0, 0, 0, 0, 0, 0, 0, 1)
    """
    lengths = np.asarray(num_tokens, dtype=np.int64)
    if not len(lengths):
        return Lengths((), ())
    found = np.percentile(lengths, PERCENTILES, method="nearest")
    powers = np.frexp(np.maximum(lengths, 1).astype(np.float64))[1] - 1
    return Lengths(tuple(int(v) for v in found), tuple(int(c) for c in np.bincount(powers)))
