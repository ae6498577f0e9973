"""The work of `--contributions`: what every adapter does for every domain, imported only when it runs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from cogen.adapter import Adapter
from cogen.analysis.contributions import (
    Shapley,
    check_permutations,
    contributions_file,
    evaluations_needed,
    leave_one_out,
    shapley,
)
from cogen.cli.scoring import Bench, aligned, make_bench, read_validation, require_several, trial_bar
from cogen.merge.combine import merge_adapters
from cogen.merge.factored import checked_weights, normalise_weights
from cogen.merge.rule import Rule

MEAN_LIKE = ("mean", "stack", "dare", "iso_c", "regmean")
MEAN = "mean"

Effects = dict[str, dict[str, float]]


def run_contributions(
    adapters: Mapping[str, Adapter],
    base_name: str,
    data: Mapping[str, str],
    out: Path | None = None,
    *,
    rule: Rule | None = None,
    weights: Sequence[float] | None = None,
    heldout_frac: float,
    validation_frac: float,
    max_tokens: int,
    sequence_length: int,
    num_permutations: int,
    seed: int,
    as_json: bool = False,
) -> tuple[Effects, Shapley]:
    """Leave-one-out effects and Shapley values on validation text, with one base in memory.

    With `as_json` nothing is printed on stdout, since the caller's one object holds the result.

    Args:
        adapters: by name, two or more. data: domain to corpus.
        out: JSON file to write; None writes nothing.
        rule, weights: of the whole merge; None for the mean, and for equal weights.
            Where some of the adapters are merged, each keeps the share of a mean that it has in the whole.
    Returns: leave-one-out effects by adapter and domain, and Shapley values.
    Raises:
        MergeError: fewer than two adapters, too few permutations, settings or weights that cannot work.
        ConfigError, DataError, AdapterError: what they need is missing or does not fit.
    """
    rule = Rule() if rule is None else rule
    rule.check()
    check_permutations(num_permutations)
    require_several(adapters)
    shares = dict(zip(adapters, _shares(rule, weights, len(adapters)), strict=True))
    documents = read_validation(data, heldout_frac, validation_frac)
    bench = make_bench(base_name, adapters, documents, max_tokens, sequence_length)
    alone, found = _valued(bench, rule, shares, num_permutations, seed)
    if out is not None:
        contributions_file(alone, found).write(out)
    if not as_json:
        print(contributions_table(alone, found))
    return alone, found


def part_of(rule: Rule, shares: Mapping[str, float], some: Sequence[str]) -> Rule:
    """The rule for a part of the adapters, in which each keeps the share that it has in the whole.

    A mean divides by the sum of weights, so that fewer adapters would each count for more: its scale is
    multiplied by the part's sum over the whole's. Rules that add up (task_arithmetic, TSV-M), take means
    of those that agree (TIES) or restore a norm (Pico) stay as they are.
    """
    if rule.method not in MEAN_LIKE or rule.calibrate != "none":
        return rule
    return replace(rule, scale=rule.scale * math.fsum(shares[n] for n in some) / math.fsum(shares.values()))


def _shares(rule: Rule, weights: Sequence[float] | None, count: int) -> list[float]:
    raw = [1.0] * count if weights is None else weights
    return normalise_weights(raw, count) if rule.is_normalised else checked_weights(raw, count)


def _valued(
    bench: Bench, rule: Rule, shares: Mapping[str, float], num_permutations: int, seed: int
) -> tuple[Effects, Shapley]:
    names = list(bench.adapters)
    most = min(2 ** len(names), evaluations_needed(len(names), num_permutations) + len(names))
    with trial_bar("contributions", most) as bar:
        value = functools.cache(_value(bench, rule, shares, bar.advance))
        found = shapley(names, value, num_permutations, seed)
        return leave_one_out(names, value), found


def _value(
    bench: Bench, rule: Rule, shares: Mapping[str, float], advance: Callable[[str], None]
) -> Callable[[frozenset[str]], Mapping[str, float]]:
    """Bits per byte of the merge of some of the adapters, and their mean over the domains."""

    def value(some: frozenset[str]) -> Mapping[str, float]:
        chosen = [name for name in bench.adapters if name in some and shares[name] != 0]
        factors = None
        if chosen:
            mine = part_of(rule, shares, chosen)
            parts = [bench.adapters[name] for name in chosen]
            factors = merge_adapters(parts, [shares[n] for n in chosen], names=chosen, **asdict(mine)).adapter.factors
        found = bench.score(factors)
        advance(" + ".join(chosen) or "base")
        return found if MEAN in found else {**found, MEAN: math.fsum(found.values()) / len(found)}

    return value


def contributions_table(alone: Mapping[str, Mapping[str, float]], found: Shapley) -> str:
    """Adapters by domains: Shapley value with its 95% interval, and below the leave-one-out effects."""
    domains = list(found.total)
    rows = [["Shapley value", *domains]]
    for name, row in found.shares.items():
        rows.append([name, *(f"{row[d].value:+.4f} [{row[d].low:+.4f}, {row[d].high:+.4f}]" for d in domains)])
        if found.is_exact:
            rows[-1][1:] = [f"{row[d].value:+.4f}" for d in domains]
    rows.append(["sum", *(f"{found.total[d]:+.4f}" for d in domains)])
    rows.append(["leave one out", *("" for _ in domains)])
    rows += [[name, *(f"{row[d]:+.4f}" for d in domains)] for name, row in alone.items()]
    how = "exact" if found.is_exact else f"{found.num_permutations} permutations, 95% intervals (Student's t)"
    return f"{aligned(rows)}\nbits per byte by which an adapter lowers the domain's text; Shapley values: {how}"
