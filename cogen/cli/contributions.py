"""`cogen contributions`: what each adapter does for each domain's text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogen.cli.merge import Calibrate, Density, Energy, Method, Rank, RuleSeed, Scale, Space, Weights
from cogen.cli.options import (
    DEFAULT_BASE,
    MOST_TRIALS,
    Adapters,
    AsJson,
    BaseName,
    HeldoutFrac,
    MaxTokens,
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
    from cogen.analysis import Shapley
    from cogen.analysis.bench import Effects
    from cogen.merge.rule import Rule


def contributions(
    inputs: Adapters,
    data: ValidationData = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="Folder for contributions.json.")] = None,
    base: BaseName = DEFAULT_BASE,
    permutations: Annotated[
        int, typer.Option(help="Orders drawn for Shapley values.", callback=in_bounds(1, MOST_TRIALS))
    ] = 8,
    weights: Weights = "",
    method: Method = None,
    scale: Scale = None,
    rank: Rank = None,
    energy: Energy = None,
    density: Density = None,
    space: Space = None,
    calibrate: Calibrate = None,
    seed: RuleSeed = None,
    without: Without = [],  # noqa: B006
    heldout_frac: HeldoutFrac = 0.05,
    validation_frac: ValidationFrac = 0.1,
    max_tokens: MaxTokens = 2048,
    sequence_length: SequenceLength = 512,
    as_json: AsJson = False,
) -> None:
    """Measure what each adapter does for each domain.

    Merges of all and of some adapters are scored on every --data. Effects are Shapley values and
    what is lost without an adapter, in bits per byte. The options of cogen merge describe the merge.

    Example: cogen contributions best/recipe.toml --data grid=grid.jsonl
    """

    from cogen.analysis.contributions import contributions_file
    from cogen.cli.recipes import read_recipe, require_no_overrides
    from cogen.merge.rule import Rule
    from cogen.merge_folder import open_all
    from cogen.train.memory import tune_allocator

    tune_allocator()
    settings = {"method": method, "scale": scale, "rank": rank, "energy": energy, "density": density}
    settings |= {"space": space, "calibrate": calibrate, "seed": seed}
    recipe = read_recipe(inputs, weights, settings, without)
    require_no_overrides(recipe, "contributions")
    alone, shares = run_contributions(
        open_all(recipe).by_name(), base, named_paths(data, "--data"),
        None if out is None else out / "contributions.json", rule=Rule(**recipe.settings()),
        weights=[a.weight for a in recipe.adapters], heldout_frac=heldout_frac, validation_frac=validation_frac,
        max_tokens=max_tokens, sequence_length=sequence_length, num_permutations=permutations,
        seed=recipe.seed or 0, as_json=as_json,
    )  # fmt: skip
    if as_json:
        print_json(contributions_file(alone, shares).model_dump())


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

    Args:
        adapters: by name, two or more. data: domain to corpus.
        out: JSON file to write; None writes nothing.
        rule, weights: of the whole merge; None for the mean, and for equal weights.
            Where some of the adapters are merged, each keeps the share of a mean that it has in the whole.
        as_json: print nothing on stdout, where the caller prints the one object.
    Returns: leave-one-out effects by adapter and domain, and Shapley values.
    Raises:
        MergeError: fewer than two adapters, too few permutations, settings or weights that cannot work.
        ConfigError, DataError, AdapterError: what they need is missing or does not fit.
    """
    from cogen.analysis.bench import (
        make_bench,
        measure_contributions,
        most_merges,
        read_validation,
        require_several,
        shares_of,
    )
    from cogen.analysis.contributions import check_permutations, contributions_file
    from cogen.merge.rule import Rule

    rule = Rule() if rule is None else rule
    rule.check()
    check_permutations(num_permutations)
    require_several(adapters)
    shares_of(rule, weights, len(adapters))  # refuses bad weights before the base is loaded
    documents = read_validation(data, heldout_frac, validation_frac)
    bench = make_bench(base_name, adapters, documents, max_tokens, sequence_length)
    say_doubts(bench.base, adapters)
    with Bar("contributions", TRIALS, most_merges(len(adapters), num_permutations)) as bar:
        alone, found = measure_contributions(
            bench, rule, weights, num_permutations, seed, lambda merge: bar.advance(note=merge)
        )
    if out is not None:
        contributions_file(alone, found).write(out)
    if not as_json:
        print(contributions_table(alone, found))
    return alone, found


def contributions_table(alone: Mapping[str, Mapping[str, float]], found: Shapley) -> str:
    """Adapters by domains: Shapley values with their 95% intervals, then leave-one-out effects."""
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
    return f"{table(rows)}\nbits per byte by which an adapter lowers the domain's text; Shapley values: {how}"
