"""The contribution of every adapter to every domain: leave-one-out effects and Shapley values.

A positive number always means that the adapter lowers bits per byte.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cogen.errors import MergeError
from cogen.records import Count, Record

MIN_PERMUTATIONS = 4
# Student's t, 97.5%, for 1 to 3 degrees of freedom; from 4 on the series below is right to 0.3%.
FIRST_T = (12.706, 4.303, 3.182)

Value = Callable[[frozenset[str]], Mapping[str, float]]


@dataclass(frozen=True)
class ShapleyShare:
    """One adapter's share in one domain, in bits per byte; `low` to `high` contains it in 95% of draws."""

    value: float
    standard_error: float
    low: float
    high: float


@dataclass(frozen=True)
class Shapley:
    """Shapley values of all adapters.

    Args:
        shares: adapter to domain to its share; over the adapters they sum to `total`.
        total: by domain, bpb of the base - bpb of all adapters merged.
        is_exact: all coalitions were evaluated; standard errors are then 0.
        num_permutations: permutations drawn, reverses included; 0 if exact.
    """

    shares: Mapping[str, Mapping[str, ShapleyShare]]
    total: Mapping[str, float]
    is_exact: bool
    num_permutations: int


@dataclass(frozen=True)
class Contribution:
    """What one adapter does for one domain, in bits per byte; above 0 is better."""

    leave_one_out: float
    shapley: ShapleyShare


class ContributionsFile(Record):
    """`contributions.json`: adapter to domain to contribution."""

    file_name = "contributions.json"
    fix = "Write it again with `cogen contributions`, or move it away."

    format: Literal[1] = 1
    unit: str = "bits per byte by which the adapter lowers the domain's text"
    interval: str = "95%, Student's t over antithetic pairs of permutations"
    is_exact: bool
    num_permutations: Count
    total: Mapping[str, float]
    adapters: Mapping[str, Mapping[str, Contribution]]


def leave_one_out(names: Sequence[str], value: Value) -> dict[str, dict[str, float]]:
    """bpb of the merge without the adapter - bpb of the merge of all, by adapter and domain.

    Args:
        names: names of the adapters.
        value: bits per byte by domain of the merge of some of them; the empty set is the base.
    Raises:
        MergeError: no adapters, a name twice, or values that are not finite or for other domains.
    """
    score, everyone = _checked(names, value), frozenset(names)
    whole = score(everyone)
    without = {name: score(everyone - {name}) for name in names}
    return {name: {d: without[name][d] - whole[d] for d in whole} for name in names}


def shapley(names: Sequence[str], value: Value, num_permutations: int, seed: int) -> Shapley:
    """Each adapter's mean effect over all orders in which the adapters could join.

    phi_k = sum over S without k of |S|! (K - |S| - 1)! / K! * (bpb(S) - bpb(S + k)).

    All 2^K coalitions are enumerated if they are no more than the permutations would need. Otherwise permutations are
    drawn in antithetic pairs, each with its reverse. The mean of a pair is one observation; standard errors are over n
    pairs, intervals by Student's t with n - 1 degrees of freedom. With very few pairs, observations may agree by
    chance, and the interval is then too narrow.

    Args:
        names: names of the adapters.
        value: bits per byte by domain of the merge of some of them; called once for each coalition.
        num_permutations: at least 4; an odd number counts as the next even one.
        seed: seed of the draws.
    Raises:
        MergeError: as for `leave_one_out`, or too few permutations.
    Source: Castro et al. 2009 (Computers & OR 36) for sampling; Mitchell et al. (arXiv 2104.12199) for pairs.
    """
    check_permutations(num_permutations)
    score = _checked(names, value)
    num_pairs = (num_permutations + 1) // 2
    base, whole = score(frozenset()), score(frozenset(names))
    total = {domain: base[domain] - whole[domain] for domain in base}
    if is_enumerated(len(names), num_permutations):
        return Shapley(_exact(names, score, list(base)), total, True, 0)
    return Shapley(_sampled(names, score, list(base), num_pairs, seed), total, False, 2 * num_pairs)


def check_permutations(num_permutations: int) -> None:
    """Raise MergeError unless there are enough permutations for an interval."""
    if num_permutations < MIN_PERMUTATIONS:
        expected, fix = f"{MIN_PERMUTATIONS} permutations or more", "An interval needs two pairs of them."
        raise _refused(expected, str(num_permutations), fix)


def evaluations_needed(num_adapters: int, num_permutations: int) -> int:
    """The most coalitions that `shapley` evaluates, with the empty one; `leave_one_out` adds at most K."""
    even = 2 * ((num_permutations + 1) // 2)
    return int(min(2**num_adapters, even * (num_adapters - 1) + 2))


def is_enumerated(num_adapters: int, num_permutations: int) -> bool:
    """Whether `shapley` evaluates all coalitions."""
    return bool(2**num_adapters == evaluations_needed(num_adapters, num_permutations))


def contributions_file(alone: Mapping[str, Mapping[str, float]], found: Shapley) -> ContributionsFile:
    """The content of `contributions.json`: leave-one-out effects and Shapley values together."""
    return ContributionsFile(
        is_exact=found.is_exact,
        num_permutations=found.num_permutations,
        total=found.total,
        adapters={
            name: {domain: Contribution(alone[name][domain], share) for domain, share in row.items()}
            for name, row in found.shares.items()
        },
    )


def _exact(names: Sequence[str], score: Value, domains: list[str]) -> dict[str, dict[str, ShapleyShare]]:
    count = len(names)
    shares = {}
    for name in names:
        others = [n for n in names if n != name]
        terms: list[tuple[float, Mapping[str, float]]] = []
        for size in range(count):
            weight = 1.0 / (count * math.comb(count - 1, size))
            for some in map(frozenset, itertools.combinations(others, size)):
                terms.append((weight, _gain(score, some, name)))
        values = {d: math.fsum(w * gain[d] for w, gain in terms) for d in domains}
        shares[name] = {d: ShapleyShare(v, 0.0, v, v) for d, v in values.items()}
    return shares


def _sampled(
    names: Sequence[str], score: Value, domains: list[str], num_pairs: int, seed: int
) -> dict[str, dict[str, ShapleyShare]]:
    chance = random.Random(seed)
    seen: dict[str, list[Mapping[str, float]]] = {name: [] for name in names}
    for _ in range(num_pairs):
        order = chance.sample(list(names), len(names))
        there, back = _walk(order, score), _walk(order[::-1], score)
        for name in names:
            seen[name].append({d: (there[name][d] + back[name][d]) / 2 for d in domains})
    return {name: {d: _share([row[d] for row in seen[name]]) for d in domains} for name in names}


def _walk(order: Sequence[str], score: Value) -> dict[str, Mapping[str, float]]:
    """The gain of each adapter when they join in this order."""
    return {name: _gain(score, frozenset(order[:i]), name) for i, name in enumerate(order)}


def _gain(score: Value, some: frozenset[str], name: str) -> dict[str, float]:
    before, after = score(some), score(some | {name})
    return {domain: before[domain] - after[domain] for domain in before}


def _share(observed: Sequence[float]) -> ShapleyShare:
    count = len(observed)
    mean = math.fsum(observed) / count
    error = math.sqrt(math.fsum((x - mean) ** 2 for x in observed) / (count - 1) / count)
    reach = t_quantile(count - 1) * error
    return ShapleyShare(mean, error, mean - reach, mean + reach)


def t_quantile(degrees: int) -> float:
    """The 97.5% point of Student's t.

    Source: Abramowitz and Stegun 26.7.5, the series in 1 / degrees around the normal's 1.95996.
    """
    if degrees <= len(FIRST_T):
        return FIRST_T[degrees - 1]
    z = 1.959963984540054
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def _checked(names: Sequence[str], value: Value) -> Value:
    """`value` with a cache, and with checks of its results."""
    if not names or len(set(names)) < len(names):
        got = "a name twice" if names else "none"
        raise _refused("adapters, each with a different name", got, "Give them different names.")
    domains: set[str] = set()

    @functools.cache
    def score(some: frozenset[str]) -> Mapping[str, float]:
        found = dict(value(some))
        domains.update(found if not domains else ())
        who = " + ".join(n for n in names if n in some) or "the base"
        if found.keys() != domains or not found:
            expected, got = f"scores on {', '.join(sorted(domains)) or 'a domain'}", ", ".join(found) or "none"
            raise _refused(expected, f"{got} for {who}", "Score every merge on the same text.")
        if bad := [d for d, x in found.items() if not math.isfinite(x)]:
            fix = "A smaller scale may help."
            raise _refused("finite bits per byte", f"{found[bad[0]]} for {who} on {bad[0]}", fix)
        return found

    return score


def _refused(expected: str, got: str, fix: str) -> MergeError:
    return MergeError("cannot share out contributions", expected=expected, got=got, fix=fix)
