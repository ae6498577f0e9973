"""`run_metadata.json` of a simulation: versions, and how much text each domain has. No text and no file names.

    {"format": 1, "versions": {"torch": "2.13.0", ...}, "data": {"grid": {"num_documents": 28, ...}, ...}}

A real federation does not write this file, because the amounts stay at the domains.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cogen.data.card import DataCard
from cogen.records import Count, Record
from cogen.versions import versions


@dataclass(frozen=True)
class CorpusAmounts:
    """How much text one domain has after cleaning; `sha256` is the hash of the prepared content."""

    num_documents: Count
    num_tokens: Count
    num_heldout_documents: Count
    num_heldout_tokens: Count
    num_dropped_documents: Count = 0
    num_files_skipped: Count = 0
    sha256: str = ""


class RunMetadata(Record):
    """`run_metadata.json`: versions by package, amounts of text by domain."""

    file_name = "run_metadata.json"
    fix = "Write it again with `cogen simulate --resume`, or move it away."

    format: Literal[1] = 1
    versions: Mapping[str, str]
    data: Mapping[str, CorpusAmounts]


def describe_run(cards: Mapping[str, DataCard]) -> RunMetadata:
    """The metadata of a run on this machine, from the data card of each domain."""
    found = {"python": platform.python_version(), **versions()}
    return RunMetadata(versions=found, data={domain: _amounts(card) for domain, card in cards.items()})


def _amounts(card: DataCard) -> CorpusAmounts:
    return CorpusAmounts(
        num_documents=card.train.num_documents,
        num_tokens=card.train.num_tokens,
        num_heldout_documents=card.heldout.num_documents,
        num_heldout_tokens=card.heldout.num_tokens,
        num_dropped_documents=sum(amount.num_documents for amount in card.dropped.values()),
        num_files_skipped=card.num_skipped,
        sha256=card.sha256,
    )
