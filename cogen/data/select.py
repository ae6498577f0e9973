"""Dropping repeated documents, and the counts that the data card is made of."""

from __future__ import annotations

from collections import Counter

from cogen.config import Data
from cogen.data.account import EXACT_DUPLICATE
from cogen.data.card import Amount
from cogen.data.chunk import Cleaned
from cogen.data.clean import DuplicateIndex

LEAKED = "near-duplicate of a held-out document"


class Selection:
    """Drops documents that repeat an earlier one.

    Reserved documents (held-out and validation ones) come first, so a copy of one in the training part is
    dropped, not the reserved document. A training document is compared with the reserved ones (leakage), then
    with other training documents; the settings can switch off either comparison.
    """

    def __init__(self, settings: Data) -> None:
        self.settings = settings
        self.num_leaked = 0
        self._exact: set[bytes] = set()
        self._reserved: DuplicateIndex[int] = DuplicateIndex(settings.near_duplicate_jaccard)
        self._train: DuplicateIndex[int] = DuplicateIndex(settings.near_duplicate_jaccard)

    def repeats(self, cleaned: Cleaned) -> str:
        """Why a document is dropped that repeats an earlier one word for word; empty if it does not."""
        if not self.settings.exact_duplicates or not cleaned.exact:
            return ""
        if cleaned.exact in self._exact:
            return EXACT_DUPLICATE
        self._exact.add(cleaned.exact)
        return ""

    def resembles(self, cleaned: Cleaned, is_reserved: bool) -> str:
        """Why a document is dropped that nearly repeats an earlier one; empty if it does not."""
        minhash = cleaned.minhash
        if minhash is None:
            return ""
        if is_reserved:
            near = self._reserved.add(len(self._reserved), minhash) is not None
            return "near-duplicate" if near and self.settings.near_duplicates else ""
        if self._reserved.find(minhash) is not None:
            self.num_leaked += 1
            if self.settings.leakage:
                return LEAKED
        if self.settings.near_duplicates and self._train.add(len(self._train), minhash) is not None:
            return "near-duplicate"
        return ""


class DropCounts:
    """Sums over kept documents, and over dropped ones by reason."""

    def __init__(self) -> None:
        self.read = Amount(0, 0)
        self.dropped: dict[str, Amount] = {}
        self.num_words = self.num_control_characters = self.num_boilerplate_lines = 0
        self.num_bytes = {True: 0, False: 0}
        self.num_tokens = {True: 0, False: 0}
        self.lengths: list[int] = []
        self.num_boilerplate_bytes = 0
        self.languages: Counter[str] = Counter()
        self.scripts: Counter[str] = Counter()
        self.personal: Counter[str] = Counter()

    def drop(self, cleaned: Cleaned, reason: str) -> None:
        """Count a document that is dropped."""
        size = Amount(1, cleaned.num_read_bytes)
        self.read += size
        self._measured(cleaned)
        self.dropped[reason] = self.dropped.get(reason, Amount(0, 0)) + size

    def keep(self, cleaned: Cleaned, is_reserved: bool) -> None:
        """Count a document that is kept."""
        assert cleaned.tokens is not None
        self.read += Amount(1, cleaned.num_read_bytes)
        self.num_words += cleaned.num_words
        self.num_control_characters += cleaned.num_control_characters
        self.num_boilerplate_lines += cleaned.num_boilerplate_lines
        self.num_boilerplate_bytes += cleaned.num_boilerplate_bytes
        self.num_bytes[is_reserved] += cleaned.num_bytes
        self.num_tokens[is_reserved] += len(cleaned.tokens)
        self.lengths.append(len(cleaned.tokens))
        self.languages[cleaned.language] += 1
        self.personal += cleaned.personal
        self._measured(cleaned)

    def _measured(self, cleaned: Cleaned) -> None:
        """Count by whose words the quality rules measured the document."""
        if cleaned.script:
            self.scripts[cleaned.script] += 1
