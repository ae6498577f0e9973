"""The work of `cogen merge --search`, imported only when it runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from cogen.adapter import Adapter
from cogen.analysis.proposals import DEFAULT_METHODS, label, propose
from cogen.analysis.search import check_search, search
from cogen.analysis.trials import Candidate, Guards, SearchResult, Trial
from cogen.cli.scoring import Bench, aligned, make_bench, read_validation, trial_bar
from cogen.errors import ConfigError
from cogen.merge.combine import merge_adapters
from cogen.merge.rule import Rule

GENERAL = "general text"


def run_search(
    adapters: Mapping[str, Adapter],
    base_name: str,
    data: Mapping[str, str],
    general: str | None,
    *,
    budget: int,
    heldout_frac: float,
    validation_frac: float,
    max_tokens: int,
    sequence_length: int,
    methods: Sequence[str] = DEFAULT_METHODS,
    rank: int | None = None,
    energy: float | None = None,
    guards: Guards | None = None,
    as_json: bool = False,
) -> tuple[Rule, tuple[float, ...], SearchResult]:
    """Find method, scale and weights on validation text, with one base in memory for all trials.

    With `as_json` nothing is printed on stdout, since the caller's one object holds the result.

    Args:
        adapters: by name, two or more. data: domain to corpus. general: a corpus of general text.
        budget: trials at most. max_tokens: of each corpus, scored in every trial.
        heldout_frac: that of training and report, whose held-out documents are left alone.
        methods: as `propose` reads them. rank, energy: the cut of the final merge.
    Returns: the chosen rule and weights, and the whole search.
    Raises:
        MergeError: fewer than two adapters, an unknown method, too small a budget.
        ConfigError, DataError, AdapterError: what they need is missing or does not fit.
    """
    names = list(adapters)
    proposals = [propose(text, len(names), rank=rank, energy=energy) for text in methods]
    check_search(proposals, names, budget)
    documents = read_validation(_columns(data, general), heldout_frac, validation_frac)
    bench = make_bench(base_name, adapters, documents, max_tokens, sequence_length)
    result = _searched(bench, proposals, budget, general is not None, guards)
    if result.warning:
        print(f"warning: {result.warning}", file=sys.stderr)
    if not as_json:
        print(search_table(result))
    return result.chosen.rule, result.chosen.weights, result


def _columns(data: Mapping[str, str], general: str | None) -> dict[str, str]:
    if not data or GENERAL in data:
        got = f"one called {GENERAL!r}" if data else "nothing"
        fix = "Name a corpus for every domain; general text has an option of its own."
        raise ConfigError("cannot search", expected="--data NAME=PATH", got=got, fix=fix)
    return {**data, **({} if general is None else {GENERAL: general})}


def _searched(
    bench: Bench, proposals: Sequence[Rule], budget: int, has_general: bool, guards: Guards | None
) -> SearchResult:
    names, adapters = list(bench.adapters), list(bench.adapters.values())
    with trial_bar("searching", budget) as bar:

        def score(candidate: Candidate) -> dict[str, float]:
            merged = merge_adapters(adapters, candidate.weights, names=names, **asdict(candidate.rule))
            found = bench.score(merged.adapter.factors)
            bar.advance(f"{label(candidate.rule)} at {candidate.rule.scale:g}")
            return found

        base = bench.score(None)
        general = GENERAL if has_general else None
        return search(proposals, names, base, score, budget=budget, general=general, guards=guards)


def search_table(result: SearchResult) -> str:
    """Every trial, what is on the Pareto front, what breaks a guard, and the choice with its reason."""
    header = ["trial", "method", "weights", "scale", "mean", "worst domain", "rise"]
    header += ["general"] if result.general is not None else []
    rows = [[*header, ""]]
    for i, trial in enumerate(result.trials):
        marks = ["chosen"] if i == result.choice else []
        marks += ["front"] if i in result.front else []
        marks += ["breaks a guard"] if trial.violation > 0 else []
        rows.append([str(i + 1), *_cells(trial), ", ".join(marks)])
    widest = max(len(row[-1]) for row in rows)
    table = aligned([[*row[:-1], row[-1].ljust(widest)] for row in rows], num_left=3)
    note = "mean: bits per byte against the base, mean of the domains; rise: bpb - base on the worst domain"
    return f"{table}\n{note}\nchoice: {result.explanation}"


def _cells(trial: Trial) -> list[str]:
    weights = trial.candidate.weights
    shown = "equal" if len(set(weights)) == 1 else " ".join(f"{w:.3f}" for w in weights)
    cells = [label(trial.candidate.rule), shown, f"{trial.candidate.rule.scale:g}", f"{trial.mean_ratio - 1:+.2%}"]
    cells += [trial.worst_domain, f"{trial.worst_rise:+.4f}"]
    return cells + ([] if trial.general_rise is None else [f"{trial.general_rise:+.4f}"])
