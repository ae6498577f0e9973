"""Which cleaned documents stay beside the others, and the sums that the card is made of."""

from __future__ import annotations

from collections import Counter

from cogen.config import Data
from cogen.data.batch import Cleaned
from cogen.data.card import Amount
from cogen.data.clean import DuplicateIndex

LEAKED = "near-duplicate of a held-out document"


class Selection:
    """Drops what repeats an earlier document; held-out documents come first, so that it is never they that go.

    A training document is held against the held-out ones (leakage), and then against other training
    documents; either can be switched off alone.
    """

    def __init__(self, settings: Data) -> None:
        self.settings = settings
        self.num_leaked = 0
        self._exact: set[bytes] = set()
        self._heldout: DuplicateIndex[int] = DuplicateIndex(settings.near_duplicate_jaccard)
        self._train: DuplicateIndex[int] = DuplicateIndex(settings.near_duplicate_jaccard)

    def repeats(self, cleaned: Cleaned) -> str:
        """Why a document is dropped that repeats an earlier one word for word; empty where it does not."""
        if not self.settings.exact_duplicates or not cleaned.exact:
            return ""
        if cleaned.exact in self._exact:
            return "exact duplicate"
        self._exact.add(cleaned.exact)
        return ""

    def resembles(self, cleaned: Cleaned, is_heldout: bool) -> str:
        """Why a document is dropped that nearly repeats an earlier one; empty where it does not."""
        checksum = cleaned.checksum
        if checksum is None:
            return ""
        if is_heldout:
            near = self._heldout.add(len(self._heldout), checksum) is not None
            return "near-duplicate" if near and self.settings.near_duplicates else ""
        if self._heldout.find(checksum) is not None:
            self.num_leaked += 1
            if self.settings.leakage:
                return LEAKED
        if self.settings.near_duplicates and self._train.add(len(self._train), checksum) is not None:
            return "near-duplicate"
        return ""


class DropCounts:
    """Sums over documents, those dropped by reason."""

    def __init__(self) -> None:
        self.read = Amount(0, 0)
        self.dropped: dict[str, Amount] = {}
        self.num_words = self.num_control_characters = self.num_boilerplate_lines = 0
        self.num_bytes = {True: 0, False: 0}
        self.num_tokens = {True: 0, False: 0}
        self.lengths: list[int] = []
        self.languages: Counter[str] = Counter()
        self.personal: Counter[str] = Counter()

    def drop(self, cleaned: Cleaned, reason: str) -> None:
        """A document that goes."""
        size = Amount(1, cleaned.num_read_bytes)
        self.read += size
        self.dropped[reason] = self.dropped.get(reason, Amount(0, 0)) + size

    def keep(self, cleaned: Cleaned, is_heldout: bool) -> None:
        """A document that stays."""
        assert cleaned.tokens is not None
        self.read += Amount(1, cleaned.num_read_bytes)
        self.num_words += cleaned.num_words
        self.num_control_characters += cleaned.num_control_characters
        self.num_boilerplate_lines += cleaned.num_boilerplate_lines
        self.num_bytes[is_heldout] += cleaned.num_bytes
        self.num_tokens[is_heldout] += len(cleaned.tokens)
        self.lengths.append(len(cleaned.tokens))
        self.languages[cleaned.language] += 1
        self.personal += cleaned.personal
