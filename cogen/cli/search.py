"""`cogen search`: find method, scale and weights of a merge on validation text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogen.cli.merge import Energy, Rank
from cogen.cli.options import (
    DEFAULT_BASE,
    MOST_TRIALS,
    Adapters,
    AsJson,
    BaseName,
    HeldoutFrac,
    MaxTokens,
    Overwrite,
    SequenceLength,
    ValidationData,
    ValidationFrac,
    Without,
    in_bounds,
    named_paths,
    say_doubts,
)
from cogen.console import TRIALS, Bar, print_json, table

if TYPE_CHECKING:
    from cogen.adapter import Adapter
    from cogen.analysis import Constraints, SearchResult
    from cogen.analysis.trials import Trial
    from cogen.merge.rule import Rule
    from cogen.recipe import Recipe


def search(
    inputs: Adapters,
    data: ValidationData = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="Folder for the best merge; none by default.")] = None,
    general: Annotated[str | None, typer.Option(help="General text that a merge must not make much worse.")] = None,
    base: BaseName = DEFAULT_BASE,
    budget: Annotated[int, typer.Option(help="Merges to score at most.", callback=in_bounds(1, MOST_TRIALS))] = 24,
    methods: Annotated[str, typer.Option("--try", help="Methods, as in mean,ties:0.5,mean+pico.")] = "",
    rank: Rank = None,
    energy: Energy = None,
    without: Without = [],  # noqa: B006
    heldout_frac: HeldoutFrac = 0.05,
    validation_frac: ValidationFrac = 0.1,
    max_tokens: MaxTokens = 2048,
    sequence_length: SequenceLength = 512,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Search for the best merge of adapters on validation text.

    Method, scale and weights are varied, and each merge is scored on all of --data.
    Held-out documents, those that cogen evaluate scores, are not used.

    Example: cogen search grid clinical --data grid=grid.jsonl --out best
    """
    from cogen.cli.recipes import read_recipe, require_new_adapter, require_no_overrides, write_merge
    from cogen.merge_folder import open_all
    from cogen.train.memory import tune_allocator

    tune_allocator()
    recipe = read_recipe(inputs, "", {"rank": rank, "energy": energy}, without)
    if out is not None:
        require_new_adapter(out, overwrite)
    require_no_overrides(recipe, "search")
    opened = open_all(recipe)

    def write(result: SearchResult) -> None:
        if out is not None:
            files = {"search.json": result.file().to_json().encode()}
            found = _found(recipe, result.chosen.rule, result.chosen.weights)
            write_merge(found, opened, out, files, as_json)
        elif as_json:
            print_json(result.file().model_dump())

    run_search(
        opened.by_name(), base, named_paths(data, "--data"), general, budget=budget, heldout_frac=heldout_frac,
        validation_frac=validation_frac, max_tokens=max_tokens, sequence_length=sequence_length,
        methods=methods.split(",") if methods else None, rank=recipe.rank, energy=recipe.energy, as_json=as_json, write=write,
    )  # fmt: skip


def _found(recipe: Recipe, rule: Rule, weights: Sequence[float]) -> Recipe:
    """The recipe with the method, scale and weights that did best."""
    from cogen.recipe import RuleTable

    pairs = zip(recipe.adapters, weights, strict=True)
    adapters = tuple(entry.model_copy(update={"weight": weight}) for entry, weight in pairs)
    empty = dict.fromkeys(RuleTable.model_fields)
    return recipe.model_copy(update={**empty, **rule.settings(), "adapters": adapters})


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
    methods: Sequence[str] | None = None,
    rank: int | None = None,
    energy: float | None = None,
    constraints: Constraints | None = None,
    as_json: bool = False,
    write: Callable[[SearchResult], None] | None = None,
) -> tuple[Rule, tuple[float, ...], SearchResult]:
    """Find method, scale and weights on validation text, with one base in memory for all merges.

    Args:
        adapters: by name, two or more. data: domain to corpus. general: a corpus of general text.
        budget: merges at most. max_tokens: of each corpus, scored for every merge.
        heldout_frac: that of training and evaluation, whose held-out documents are not read.
        methods: as `propose` reads them; None for all. rank, energy: the cut of the final merge.
        as_json: print nothing on stdout, where the caller prints the one object.
        write: called with the result before the table is printed, which can fail where stdout is closed.
    Returns: the chosen rule and weights, and the whole search.
    Raises:
        MergeError: fewer than two adapters, an unknown method, too small a budget.
        ConfigError, DataError, AdapterError: what they need is missing or does not fit.
    """
    from cogen.analysis.bench import make_bench, read_validation, search_merge
    from cogen.analysis.proposals import DEFAULT_METHODS, propose
    from cogen.analysis.search import check_search

    names = list(adapters)
    proposals = [propose(text, len(names), rank=rank, energy=energy) for text in methods or DEFAULT_METHODS]
    check_search(proposals, names, budget)
    documents = read_validation(_columns(data, general), heldout_frac, validation_frac)
    bench = make_bench(base_name, adapters, documents, max_tokens, sequence_length)
    say_doubts(bench.base, adapters)
    with Bar("searching", TRIALS, budget) as bar:
        result = search_merge(bench, proposals, budget, constraints, lambda merge: bar.advance(note=merge))
    if result.warning:
        print(f"warning: {result.warning}", file=sys.stderr)
    if write is not None:
        write(result)
    if not as_json:
        print(search_table(result))
    return result.chosen.rule, result.chosen.weights, result


def _columns(data: Mapping[str, str], general: str | None) -> dict[str, str]:
    from cogen.analysis.bench import GENERAL
    from cogen.errors import ConfigError

    if not data or GENERAL in data:
        got = f"one called {GENERAL!r}" if data else "nothing"
        fix = "Name a corpus for every domain; general text has an option of its own."
        raise ConfigError("cannot search", expected="--data NAME=PATH", got=got, fix=fix)
    return {**data, **({} if general is None else {GENERAL: general})}


def search_table(result: SearchResult) -> str:
    """Every merge that was scored, which ones are on the Pareto front or violate a constraint, and the choice with its reason."""
    header = ["trial", "method", "weights", "scale", "mean", "worst domain", "rise"]
    header += ["general"] if result.general is not None else []
    rows = [header]
    notes = ["  "]
    for i, trial in enumerate(result.trials):
        marks = ["chosen"] if i == result.choice else []
        marks += ["front"] if i in result.front else []
        marks += ["violates a constraint"] if trial.violation > 0 else []
        rows.append([str(i + 1), *_cells(trial)])
        notes.append("  " + ", ".join(marks))
    lines = [(line + note).rstrip() for line, note in zip(table(rows, num_left=3).splitlines(), notes, strict=True)]
    lines += ["mean: bits per byte against the base, mean of the domains; rise: bpb - base on the worst domain"]
    return "\n".join([*lines, f"choice: {result.explanation}"])


def _cells(trial: Trial) -> list[str]:
    from cogen.analysis.proposals import label

    weights = trial.candidate.weights
    shown = "equal" if len(set(weights)) == 1 else " ".join(f"{w:.3f}" for w in weights)
    cells = [label(trial.candidate.rule), shown, f"{trial.candidate.rule.scale:g}", f"{trial.mean_ratio - 1:+.2%}"]
    cells += [trial.worst_domain, f"{trial.worst_rise:+.4f}"]
    return cells + ([] if trial.general_rise is None else [f"{trial.general_rise:+.4f}"])
