"""A run ends with the best of its rounds."""

from __future__ import annotations

from typing import Any

import pytest

from cogen.evaluate.matrix import Cell
from server.best_round import best_round, candidates, domains_that_know


def replied(number: int, domain: str, before: float | None, late: int = 0) -> dict[str, Any]:
    about = {"rounds_late": late} if late else {}
    return {"event": "client_replied", "round": number, "domain": domain, "bits_per_byte_before": before, **about}


def scored(**domains: float) -> list[Cell]:
    return [Cell("m", domain, value, 10, 5) for domain, value in domains.items()]


def test_one_round_has_nothing_to_choose_from() -> None:
    assert candidates([replied(1, "grid", 1.0)], 1) == []


def test_the_first_round_and_the_best_on_the_way_are_candidates() -> None:
    """A round's adapter is scored before the next round: the figures of round 4 are of round 3's adapter."""
    events = [replied(n, d, value) for n, value in ((2, 0.9), (3, 0.7), (4, 0.8)) for d in ("grid", "clinical")]
    assert candidates(events, 4) == [1, 2]
    assert candidates(events[:2], 2) == [1]


def test_only_domains_that_scored_every_round_are_compared() -> None:
    """Red: a round looks best because the domain with the hardest text was away."""
    events = [
        replied(2, "grid", 0.7),
        replied(2, "clinical", 1.5),
        replied(3, "grid", 0.8),
        {"event": "round_finished"},
    ]
    assert candidates(events, 3) == [1]
    assert candidates([replied(2, "grid", None), replied(3, "grid", None)], 3) == [1]
    assert candidates([*events, replied(2, "grid", 0.9)], 3) == [1, 2]  # round 1 was repeated: its last figure counts


def test_the_lowest_mean_wins_and_the_last_round_wins_a_tie() -> None:
    scores = {3: scored(grid=0.8, clinical=0.7), 1: scored(grid=0.7, clinical=0.7), 2: scored(grid=0.9, clinical=0.2)}
    number, means = best_round(scores)
    assert number == 2 and means == pytest.approx({3: 0.75, 1: 0.7, 2: 0.55})
    assert best_round({3: scored(grid=0.8), 1: scored(grid=0.8)})[0] == 3
    assert best_round({3: scored(grid=0.8, clinical=0.1), 1: scored(grid=0.7)})[0] == 1  # on grid alone
    assert best_round({3: scored(grid=0.8), 1: scored(clinical=0.1)}) == (3, {})


def test_a_domain_knows_the_start_of_a_round_that_it_trained() -> None:
    assert domains_that_know([replied(2, "grid", 1.0), replied(4, "clinical", 1.0, late=2)], 1) == {"grid", "clinical"}
    assert domains_that_know([replied(1, "grid", 1.0)], 1) == set()
