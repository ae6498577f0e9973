"""Contributions: games with a known answer, the sum, intervals, and which coalitions are scored."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Callable, Mapping

import pytest

from cogen.analysis.contributions import contributions_file, evaluations_needed, leave_one_out, shapley, t_quantile
from cogen.errors import MergeError

NAMES = ("a", "b", "c")
Value = Callable[[frozenset[str]], Mapping[str, float]]


def additive(own: Mapping[str, float]) -> Value:
    return lambda some: {"grid": 2.0 - math.fsum(own[n] for n in some), "law": 1.0 + 0.5 * len(some)}


def three(some: frozenset[str]) -> Mapping[str, float]:
    """a and b are worth 12 together and nothing apart; c is worth 3 with either or without."""
    return {"grid": 20.0 - 12.0 * ({"a", "b"} <= some) - 3.0 * ("c" in some)}


def rough(seed: int, names: tuple[str, ...]) -> Value:
    """Every coalition has a value of its own, by chance."""

    def value(some: frozenset[str]) -> Mapping[str, float]:
        chance = random.Random(f"{seed} {sorted(some)}")
        return {"grid": 3.0 - 0.2 * len(some) + chance.gauss(0, 0.3), "law": chance.random()}

    return value


def test_an_additive_game_gives_every_adapter_its_own_value() -> None:
    """Exactly and sampled. Red: the sign is turned."""
    own = {"a": 0.3, "b": -0.1, "c": 0.05, "d": 0.0, "e": 0.2, "f": 0.4}
    for num_permutations, is_exact in ((20, True), (6, False)):
        found = shapley(list(own), additive(own), num_permutations, 0)
        assert found.is_exact == is_exact
        for name, worth in own.items():
            share = found.shares[name]["grid"]
            assert share.value == pytest.approx(worth, abs=1e-12) and share.standard_error < 1e-12
            assert found.shares[name]["law"].value == pytest.approx(-0.5, abs=1e-12)


def test_three_adapters_by_hand() -> None:
    """The pair shares its 12, c keeps its 3; without a or b all 12 are gone. Red: coalitions are weighted alike."""
    found = shapley(NAMES, three, 10, 0)
    assert found.is_exact and found.num_permutations == 0
    assert {n: found.shares[n]["grid"].value for n in NAMES} == pytest.approx({"a": 6, "b": 6, "c": 3})
    assert found.shares["a"]["grid"].low == found.shares["a"]["grid"].high == found.shares["a"]["grid"].value
    assert leave_one_out(NAMES, three) == {"a": {"grid": 12.0}, "b": {"grid": 12.0}, "c": {"grid": 3.0}}


def test_a_majority_of_three_with_a_leader_by_hand() -> None:
    """v = 1 for {a, b}, {a, c} and all: 4/6, 1/6, 1/6. Red: 1 / C(K-1, |S|) without the 1 / K."""

    def value(some: frozenset[str]) -> Mapping[str, float]:
        return {"grid": 1.0 - float("a" in some and len(some) > 1)}

    found = shapley(NAMES, value, 10, 0)
    assert {n: found.shares[n]["grid"].value for n in NAMES} == pytest.approx({"a": 4 / 6, "b": 1 / 6, "c": 1 / 6})


@pytest.mark.parametrize("seed", range(5))
def test_shares_sum_to_what_all_adapters_gain(seed: int) -> None:
    """Efficiency, sampled and exact. Red: a permutation's first adapter is dropped of the walk."""
    names = tuple("abcdefg")
    value = rough(seed, names)
    base, whole = value(frozenset()), value(frozenset(names))
    for num_permutations in (4, 7, 40):
        found = shapley(names, value, num_permutations, seed)
        assert found.is_exact == (num_permutations == 40)
        for domain in ("grid", "law"):
            total = math.fsum(row[domain].value for row in found.shares.values())
            assert total == pytest.approx(base[domain] - whole[domain], abs=1e-12)
            assert found.total[domain] == base[domain] - whole[domain]


def test_intervals_cover_the_exact_value_about_as_often_as_they_say() -> None:
    """60 seeds, 7 adapters, 8 permutations of a rough game. Red: reach is one standard error."""
    names = tuple("abcdefg")
    value = rough(1, names)
    exact = shapley(names, value, 100, 0)
    assert exact.is_exact
    inside = []
    for seed in range(60):
        found = shapley(names, value, 8, seed)
        for name in names:
            share = found.shares[name]["grid"]
            inside.append(share.low <= exact.shares[name]["grid"].value <= share.high)
    assert 0.88 < sum(inside) / len(inside) < 0.995


def test_standard_errors_are_the_spread_over_seeds() -> None:
    """Red: the root of the number of pairs is dropped."""
    names = tuple("abcdefg")
    draws = [shapley(names, rough(1, names), 8, seed).shares for seed in range(60)]
    spread = said = 0.0
    for name in names:
        spread += statistics.variance(shares[name]["grid"].value for shares in draws)
        said += statistics.mean(shares[name]["grid"].standard_error ** 2 for shares in draws)
    assert 0.7 < said / spread < 1.4


def test_pairs_take_out_what_depends_on_the_place_alone() -> None:
    """A gain that grows with the place is the same in every pair. Red: the reverse is not walked, or is the order."""
    names = tuple("abcdef")
    found = shapley(names, lambda some: {"grid": 100.0 - len(some) ** 2}, 4, 0)
    assert not found.is_exact
    for name in names:
        assert found.shares[name]["grid"].value == pytest.approx(6.0) and found.shares[name]["grid"].high < 6.0 + 1e-9


def test_each_coalition_is_asked_for_once_and_no_more_than_said() -> None:
    """Red: value is called without being remembered."""
    names = tuple("abcdef")
    asked: list[frozenset[str]] = []

    def value(some: frozenset[str]) -> Mapping[str, float]:
        asked.append(some)
        return rough(0, names)(some)

    for num_permutations in (4, 5, 100):
        asked.clear()
        shapley(names, value, num_permutations, 3)
        assert len(asked) == len(set(asked)) <= evaluations_needed(6, num_permutations)
    assert len(asked) == 64
    assert [evaluations_needed(6, n) for n in (4, 5, 12, 13)] == [22, 32, 62, 64]


def test_draws_repeat_by_seed() -> None:
    """Red: the global generator is used."""
    names = tuple("abcdefg")
    value = rough(2, names)
    random.seed(0)
    one = shapley(names, value, 6, 4)
    state = random.getstate()
    assert shapley(names, value, 6, 4) == one != shapley(names, value, 6, 5)
    assert random.getstate() == state


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.706), (3, 3.182), (4, 2.776), (10, 2.228), (60, 2.000)])
def test_students_t(degrees: int, quantile: float) -> None:
    """From a printed table. Red: the normal's 1.96."""
    assert t_quantile(degrees) == pytest.approx(quantile, rel=3e-3)


def test_json_holds_both_measures() -> None:
    """Red: leave-one-out and Shapley values change places."""
    values = json.loads(contributions_file(leave_one_out(NAMES, three), shapley(NAMES, three, 10, 0)).to_json())
    assert values["format"] == 1 and values["is_exact"] and values["total"] == {"grid": 15.0}
    cell = values["adapters"]["a"]["grid"]
    assert cell["leave_one_out"] == 12.0 and cell["shapley"]["value"] == pytest.approx(6.0)


def test_what_cannot_be_shared_out() -> None:
    """Red: values that are not finite go through."""
    with pytest.raises(MergeError, match="4 permutations or more, got 3"):
        shapley(NAMES, three, 3, 0)
    with pytest.raises(MergeError, match="a name twice"):
        leave_one_out(("a", "a"), three)
    with pytest.raises(MergeError, match="got none"):
        shapley((), three, 4, 0)
    with pytest.raises(MergeError, match="finite bits per byte, got nan for a \\+ b on grid"):
        leave_one_out(NAMES, lambda some: {"grid": math.nan if some == {"a", "b"} else 1.0})
    with pytest.raises(MergeError, match="scores on law, got grid for a \\+ b \\+ c"):
        shapley(NAMES, lambda some: {"grid" if some else "law": 1.0} if len(some) < 3 else {"grid": 1.0}, 4, 0)
