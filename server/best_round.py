"""Which round's global adapter a run of several rounds ends with: the best on the domains' held-out text, not just the last.

Rounds can make a model worse than the first one did. Each domain scores the global adapter before it trains the next round,
which says which earlier round may be the best; the first round, that one and the last are scored with the other models
after the run, and the one with the lowest mean bits per byte is the combined model. A joined domain scores only models that
it knows: in a real federation the starts that it was sent, so in a relay there the last round is taken as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cogen.evaluate.matrix import ROUND_PREFIX, Cell


def candidates(events: Iterable[Mapping[str, Any]], num_rounds: int) -> list[int]:
    """The rounds before the last one that may be the best: the first, and the one with the best scores on the way.

    Args:
        events: of the run; the last score of a domain in a round counts.
    """
    if num_rounds < 2:
        return []
    found: dict[int, dict[str, float]] = {n: {} for n in range(1, num_rounds)}
    for event in events:
        if event.get("event") != "client_replied":
            continue
        number, before = event["round"] - 1, event.get("bits_per_byte_before")
        if number in found and before is not None:
            found[number][event["domain"]] = before
    common = set.intersection(*({*scores} for scores in found.values()))
    means = {number: sum(scores[d] for d in common) for number, scores in found.items()} if common else {1: 0.0}
    return sorted({1, min(means, key=lambda n: means[n])})


def domains_that_know(events: Iterable[Mapping[str, Any]], number: int) -> set[str]:
    """The domains that trained the round after round `number`, so that its global adapter is no new model to them."""
    replied = [event for event in events if event.get("event") == "client_replied"]
    return {e["domain"] for e in replied if e["round"] - e.get("rounds_late", 0) == number + 1}


def best_round(scores: Mapping[int, Iterable[Cell]]) -> tuple[int, dict[int, float]]:
    """The round with the lowest mean over the domains that scored all, and the means; a tie goes to the later round.

    Args:
        scores: by round, cells of its global adapter. Without a domain that scored all there are no means.
    """
    by_round = {number: {c.domain: c.bits_per_byte for c in cells} for number, cells in scores.items()}
    common = set.intersection(*({*cells} for cells in by_round.values()))
    if not common:
        return max(scores), {}
    means = {n: sum(cells[d] for d in sorted(common)) / len(common) for n, cells in by_round.items()}
    return min(means, key=lambda n: (means[n], -n)), means


def row_of(number: int) -> str:
    """The name of a round's global adapter among the models that are scored."""
    return f"{ROUND_PREFIX}{number}"
