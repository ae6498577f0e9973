"""What became of a corpus, in one line: documents read, what was skipped and dropped and why, and the share lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cogen.console import safe
from cogen.errors import DataError

if TYPE_CHECKING:
    from cogen.data.card import DataCard
    from cogen.data.read import Corpus

EXACT_DUPLICATE = "exact duplicate"
MOST_REASONS = 3
REASON_CHARACTERS = 160


@dataclass(frozen=True)
class Account:
    """What became of one corpus.

    Args:
        source: its path.
        num_documents: documents read, kept and dropped ones.
        num_bytes: UTF-8 bytes of their text.
        skipped: files, lines, rows and pages that gave no document: the first ones, each with its reason.
        num_skipped: all of them.
        dropped: documents that cleaning dropped, by reason.
        loss_frac: share of the corpus, in bytes, that is not used and is no exact copy of something that is.
    """

    source: str
    num_documents: int
    num_bytes: int
    skipped: tuple[tuple[str, str], ...]
    num_skipped: int
    dropped: Mapping[str, int]
    loss_frac: float

    @classmethod
    def of_card(cls, card: DataCard) -> Account:
        """The account of a prepared corpus."""
        read = card.read
        return cls(
            card.source,
            read.num_documents,
            read.num_bytes,
            tuple((one.file, one.reason) for one in card.skipped),
            card.num_skipped,
            {reason: amount.num_documents for reason, amount in card.dropped.items()},
            1.0 - (1.0 - _frac(card.num_lost_bytes, card.num_file_bytes)) * (1.0 - _cleaned_frac(card)),
        )

    @classmethod
    def of_corpus(cls, corpus: Corpus, source: str) -> Account:
        """The account of a corpus that was read without cleaning."""
        num_bytes = sum(len(d.text.encode()) for d in corpus)
        loss_frac = _frac(corpus.num_lost_bytes, corpus.num_file_bytes)
        return cls(source, len(corpus), num_bytes, corpus.skipped, len(corpus.skipped), {}, loss_frac)

    def __str__(self) -> str:
        """One line.

        >>> print(Account("notes", 40, 12_000, (("scan.pdf", "no text"),), 1, {"near-duplicate": 2}, 0.25))
        40 documents read (12,000 bytes); skipped 1: scan.pdf: no text; dropped 2: near-duplicate 2; 25% of the text lost
        """
        parts = [
            f"{self.num_documents:,} document{'' if self.num_documents == 1 else 's'} read ({self.num_bytes:,} bytes)"
        ]
        if self.num_skipped:
            parts.append(f"skipped {self.num_skipped:,}: {self._skipped()}")
        if self.dropped:
            counts = [f"{reason} {count:,}" for reason, count in Counter(self.dropped).most_common()]
            parts.append(f"dropped {sum(self.dropped.values()):,}: {_first(counts)}")
        lost = f"{self.loss_frac:.0%} of the text lost" if self.loss_frac >= 0.005 else "less than 1% of the text lost"
        return "; ".join([*parts, lost] if len(parts) > 1 or self.loss_frac else [*parts, "nothing skipped or dropped"])

    def _skipped(self) -> str:
        """The most frequent reasons, each with the first place and how many more there are."""
        places: dict[str, list[str]] = {}
        for file, reason in self.skipped:
            places.setdefault(reason, []).append(file)
        found = sorted(places.items(), key=lambda item: -len(item[1]))
        return _first(
            [
                f"{files[0]}{f' and {len(files) - 1:,} more' if len(files) > 1 else ''}: {safe(reason, REASON_CHARACTERS)}"
                for reason, files in found
            ]
        )


def tell_losses(accounts: Mapping[str, Account], max_loss_frac: float, tell: OnAccount | None = None) -> None:
    """Tell what became of every corpus, and refuse to go on with one of which too much is lost.

    Args:
        accounts: by the name of the corpus.
        max_loss_frac: the largest share of each that may be lost.
        tell: called with every name and account, before anything is refused.
    Raises:
        DataError: more is lost.
    """
    for name, account in accounts.items():
        if tell is not None:
            tell(name, account)
    for name, account in accounts.items():
        if account.loss_frac > max_loss_frac:
            raise DataError(
                f"too much of corpus {name!r} is lost",
                expected=f"at most {max_loss_frac:.0%} of its text skipped or dropped",
                got=f"{account.loss_frac:.0%}" + (f": {account}" if tell is None else ""),
                where=account.source,
                fix="See `cogen data` on it and mend it, or go on without that text with --accept-loss.",
            )


OnAccount = Callable[[str, Account], None]
"""Called with the name of a corpus and what became of it."""


def _cleaned_frac(card: DataCard) -> float:
    """The share of the text that was read and is lost by cleaning: documents dropped, and lines and characters removed.

    Exact copies of other documents do not count.
    """
    copies = card.dropped.get(EXACT_DUPLICATE)
    before = card.read.num_bytes - (copies.num_bytes if copies else 0)
    return _frac(before - card.train.num_bytes - card.heldout.num_bytes, before)


def _frac(part: int, whole: int) -> float:
    return max(0, part) / whole if whole > 0 else 0.0


def _first(parts: list[str]) -> str:
    more = len(parts) - MOST_REASONS
    return ", ".join(parts[:MOST_REASONS]) + (f", and {more:,} other reasons" if more > 0 else "")
