"""The work of `cogen merge`, imported only when it runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

from cogen.adapter.peft_config import CONFIG_NAME
from cogen.cli.show import named_paths, print_json
from cogen.errors import ConfigError, RunError, WeightError
from cogen.merge import Merged, Rule, SelfCheck
from cogen.merge_folder import Opened, folders_of, merge_recipe, names_of, open_all, recipe_of, save_checked, signed
from cogen.merge_folder import without as dropped
from cogen.recipe import RECIPE_NAME, AdapterTable, Recipe, RuleTable, load_recipe

if TYPE_CHECKING:
    from cogen.analysis.trials import SearchResult


@dataclass(frozen=True)
class Look:
    """What to do besides or instead of merging."""

    diagnose: bool = False
    search: bool = False
    contributions: bool = False


@dataclass(frozen=True)
class Scoring:
    """The base and the text on which merges are scored, and how many."""

    base: str
    data: list[str]
    general: str | None
    budget: int
    candidates: str
    permutations: int
    heldout_frac: float
    validation_frac: float
    max_tokens: int
    sequence_length: int

    def windows(self) -> dict[str, Any]:
        """What search and contributions share."""
        return {
            "heldout_frac": self.heldout_frac,
            "validation_frac": self.validation_frac,
            "max_tokens": self.max_tokens,
            "sequence_length": self.sequence_length,
        }


def run_merge(
    inputs: list[str],
    out: Path | None,
    weights: str,
    settings: dict[str, Any],
    without: list[str],
    look: Look,
    scoring: Scoring,
    *,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Open, combine with a bar over modules, write, read back, say how much energy a cut lost; or only look."""
    _check_modes(look, out)
    recipe = _recipe(inputs, weights, settings, bool(without))
    if without:
        recipe = dropped(recipe, names_of(recipe), without)
    if look.diagnose:
        from cogen.cli.run_diagnose import run_diagnose

        run_diagnose(folders_of(recipe), out, as_json=as_json)
    elif look.contributions:
        _contributions(recipe, scoring, out, as_json)
    elif out is not None:
        _check_out(out, overwrite)
        _make(recipe, settings, out, look.search, scoring, as_json)


def _make(
    recipe: Recipe, settings: dict[str, Any], out: Path, is_search: bool, scoring: Scoring, as_json: bool
) -> None:
    if is_search:
        _check_search(recipe, settings)
    opened, found = open_all(recipe), {}
    if is_search:
        recipe, result = _search(recipe, opened, scoring, as_json)
        found["search.json"] = result.to_json().encode()
    merged = _merge(recipe, opened)
    text = signed(recipe, opened).placed_in(out).to_toml()
    check = save_checked(merged, out, {RECIPE_NAME: text.encode(), **found})
    _say(merged, check, out, len(opened.adapters), as_json)


def _check_modes(look: Look, out: Path | None) -> None:
    asked = [f"--{name}" for name, on in vars(look).items() if on]
    if len(asked) > 1:
        raise ConfigError("cannot merge", expected="one of them", got=" and ".join(asked), fix="Do one at a time.")
    if out is None and asked in ([], ["--search"]):
        raise ConfigError("cannot merge", expected="--out", got="nothing", fix="See cogen merge --help.")


def _contributions(recipe: Recipe, scoring: Scoring, out: Path | None, as_json: bool) -> None:
    """Print, and write into `out`, what each adapter does for each domain."""
    from cogen.analysis.contributions import contributions_file
    from cogen.cli.run_contributions import run_contributions

    _no_overrides(recipe, "--contributions")
    place = None if out is None else out / "contributions.json"
    alone, shares = run_contributions(
        open_all(recipe).by_name(), scoring.base, named_paths(scoring.data, "--data"), place, rule=Rule(**recipe.settings()),
        weights=[a.weight for a in recipe.adapters], num_permutations=scoring.permutations, seed=recipe.seed or 0,
        as_json=as_json, **scoring.windows(),
    )  # fmt: skip
    if as_json:
        print_json(contributions_file(alone, shares).model_dump())


def _check_search(recipe: Recipe, settings: dict[str, Any]) -> None:
    """What is to be found may not be given."""
    _no_overrides(recipe, "--search")
    if fixed := sorted(settings.keys() - {"rank", "energy"}):
        fix = "Leave it to the search; name methods with --try."
        raise ConfigError("cannot search", expected="only --rank or --energy", got=f"--{fixed[0]}", fix=fix)


def _search(recipe: Recipe, opened: Opened, scoring: Scoring, as_json: bool) -> tuple[Recipe, SearchResult]:
    """The recipe with the method, scale and weights that did best on validation text."""
    from cogen.analysis.proposals import DEFAULT_METHODS
    from cogen.cli.run_search import run_search

    methods = scoring.candidates.split(",") if scoring.candidates else DEFAULT_METHODS
    rule, weights, result = run_search(
        opened.by_name(), scoring.base, named_paths(scoring.data, "--data"), scoring.general,
        budget=scoring.budget, rank=recipe.rank, energy=recipe.energy, as_json=as_json, methods=methods,
        **scoring.windows(),
    )  # fmt: skip
    pairs = zip(recipe.adapters, weights, strict=True)
    adapters = tuple(entry.model_copy(update={"weight": weight}) for entry, weight in pairs)
    empty = dict.fromkeys(RuleTable.model_fields)
    return recipe.model_copy(update={**empty, **rule.settings(), "adapters": adapters}), result


def _no_overrides(recipe: Recipe, mode: str) -> None:
    if recipe.overrides:
        fix = "Take the overrides out for this."
        raise ConfigError("cannot use recipe", expected=f"no overrides with {mode}", got="some", fix=fix)


def _check_out(out: Path, overwrite: bool) -> None:
    """What is there is only replaced when it is an adapter, and the user said so."""
    if out.is_file():
        raise RunError("cannot write", expected="a folder", got="a file", where=str(out), fix="Name another --out.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / CONFIG_NAME).is_file():
        got = "a folder with other files"
        raise RunError("cannot write", expected="a new folder", got=got, where=str(out), fix="Name another --out.")
    if not overwrite:
        fix = "Replace it with --overwrite, or name another --out."
        raise RunError("cannot write", expected="a new folder", got="an adapter", where=str(out), fix=fix)


def _recipe(inputs: list[str], weights: str, settings: dict[str, Any], is_leaving: bool) -> Recipe:
    """What to do, from a recipe, from a merge that someone leaves, or from folders and flags."""
    only = Path(inputs[0]) if len(inputs) == 1 else None
    if only is not None and only.suffix == ".toml":
        recipe = load_recipe(only)
    elif only is not None and is_leaving:
        recipe = recipe_of(only)
    else:
        recipe = Recipe(adapters=tuple(_entry(text) for text in inputs))
    if numbers := _weights(weights):
        if len(numbers) != len(recipe.adapters):
            raise _bad_weights(f"{len(recipe.adapters)} numbers", str(len(numbers)))
        pairs = zip(recipe.adapters, numbers, strict=True)
        recipe = recipe.model_copy(update={"adapters": tuple(a.model_copy(update={"weight": w}) for a, w in pairs)})
    return recipe.model_copy(update=settings)


def _entry(text: str) -> AdapterTable:
    name, equals, path = text.partition("=")
    if not equals or Path(text).is_dir():
        return AdapterTable(path=text)
    if not name or not path:
        fix = "Give a folder, or a name and a folder."
        raise ConfigError("cannot merge", expected="[NAME=]FOLDER", got=repr(text), fix=fix)
    return AdapterTable(path=path, name=name)


def _weights(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise _bad_weights("numbers, as in 2,1,1", repr(text)) from None


def _bad_weights(expected: str, got: str) -> WeightError:
    return WeightError("cannot use weights", expected=expected, got=got, where="--weights", fix="Mend them.")


def _merge(recipe: Recipe, opened: Opened) -> Merged:
    total = len(set().union(*(a.factors for a in opened.adapters)))
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("merging", total=total)
        return merge_recipe(recipe, opened, progress=lambda _: bar.advance(task))


def _say(merged: Merged, check: SelfCheck, out: Path, count: int, as_json: bool) -> None:
    cut, rank = merged.mean_energy_cut_frac, merged.adapter.rank
    if as_json:
        values = {"out": str(out), "num_adapters": count, "rank": rank, "energy_cut_frac": cut, "error": check.error}
        print_json(values)
    else:
        print(f"{out}: {count} adapters, rank {rank}, energy cut off {cut:.2%}, read back to {check.error:.1e}")
