"""`run_metadata.json` of a simulation: versions, and how much text each domain has. Amounts alone, no text and no names.

    {"format": 1, "versions": {"torch": "2.13.0", ...}, "data": {"grid": {"num_documents": 28, ...}, ...}}

In a real federation amounts stay at the domains, and the file is not written.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping

from cogen.data.card import DataCard
from cogen.versions import versions

FORMAT = 1


def run_metadata_json(cards: Mapping[str, DataCard]) -> str:
    """The text of `run_metadata.json`, from each domain's data card."""
    found = {"python": platform.python_version(), **versions()}
    data = {domain: _amounts(card) for domain, card in cards.items()}
    return json.dumps({"format": FORMAT, "versions": found, "data": data}, indent=2, ensure_ascii=False) + "\n"


def _amounts(card: DataCard) -> dict[str, int | str]:
    return {
        "num_documents": card.train.num_documents,
        "num_tokens": card.train.num_tokens,
        "num_heldout_documents": card.heldout.num_documents,
        "num_heldout_tokens": card.heldout.num_tokens,
        "num_dropped_documents": sum(amount.num_documents for amount in card.dropped.values()),
        "num_files_skipped": card.num_skipped,
        "sha256": card.sha256,
    }
