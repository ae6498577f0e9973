"""`cogen merge --routed`: experts, a common adapter and a gate in one folder; take experts in, take experts out."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogen.cli.options import require_new_folder
from cogen.cli.recipes import num_modules, read_recipe
from cogen.console import MODULES, TOKENS, Bar, print_json, safe
from cogen.errors import ConfigError, MergeError

if TYPE_CHECKING:
    from cogen.adapter.gate import GateStatistics
    from cogen.recipe import Recipe
    from cogen.routing.folder import RoutedModel

WINDOW_TOKENS, PUBLIC_TOKENS = 512, 8192


@dataclass
class Parts:
    """What a routed model is made of.

    Args:
        experts: name to folder.
        common: folder of the common adapter; None merges the experts.
        recipe: by which the common adapter is merged.
        left: experts that were there and are no more.
        public: statistics of text of no domain, for the gate.
    """

    recipe: Recipe
    experts: dict[str, Path] = field(default_factory=dict)
    common: Path | None = None
    left: list[str] = field(default_factory=list)
    public: GateStatistics | None = None


def write_routed_model(
    inputs: list[str],
    weights: str,
    settings: Mapping[str, Any],
    common: Path | None,
    public: Path | None,
    without: list[str],
    out: Path,
    *,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the folder and print a line about it.

    A common adapter that was merged from the experts is merged again from those that are there now. Any other one stays.

    Raises:
        ConfigError, AdapterError, MergeError: an input cannot be used; nothing is written.
    """
    from cogen.adapter import Adapter
    from cogen.routing.folder import ROUTED_NAME, statistics, write_routed

    require_new_folder(out, ROUTED_NAME, "a routed model", overwrite)
    parts = _parts(inputs, weights, settings, common)
    _drop(parts, without)
    for name, folder in parts.experts.items():
        statistics(Adapter.open(folder), name)  # fails before anything that takes time
    if public is not None:
        parts.public = _of_public_text(parts, public)
    with tempfile.TemporaryDirectory(prefix="cogen-routed-") as place:
        shared = parts.common or _merged(parts, Path(place) / "common")
        made = write_routed(out, shared, parts.experts, parts.left, parts.public)
    _say(made, out, as_json)


def _parts(inputs: list[str], weights: str, settings: Mapping[str, Any], common: Path | None) -> Parts:
    from cogen.merge_folder import folders_of
    from cogen.recipe import RECIPE_NAME, load_recipe
    from cogen.routing.folder import COMMON, RoutedModel, is_routed

    paths = [Path(text) for text in inputs]
    routed = [RoutedModel.open(path) for path in paths if is_routed(path)]
    if len(routed) > 1:
        raise ConfigError("cannot route", expected="one routed model", got=f"{len(routed)}", fix="Name one of them.")
    others = [text for text, path in zip(inputs, paths, strict=True) if not is_routed(path)]
    new = read_recipe(others, weights, settings, []) if others else None
    if not routed:
        if new is None:
            raise ConfigError("cannot route", expected="adapters", got="none", fix="See cogen merge --help.")
        return Parts(new, {n: Path(p) for n, p in folders_of(new).items()}, common)
    (model,) = routed
    public = model.opened[COMMON].gate  # an adapter that is not the manifest's ends it here
    added = {} if new is None else {n: Path(p) for n, p in folders_of(new).items()}
    if twice := sorted(set(added) & set(model.experts)):
        fix = "Give the new one another name, as in NAME=FOLDER, or take the old one out with --without first."
        raise MergeError("cannot route", expected="every expert once", got=f"{twice[0]} twice", fix=fix)
    recipe, is_merged = new, (model.common / RECIPE_NAME).is_file()
    if is_merged:
        recipe = load_recipe(model.common / RECIPE_NAME)
        recipe = recipe.model_copy(update={"adapters": (*recipe.adapters, *(new.adapters if new else ()))})
        recipe = recipe.model_copy(update={k: v for k, v in settings.items() if v is not None})
    kept = common or (None if is_merged else model.common)
    assert recipe is not None or kept is not None
    return Parts(recipe or _empty(model), {**model.experts, **added}, kept, list(model.manifest.left), public)


def _empty(model: RoutedModel) -> Recipe:
    """A recipe that names the experts, for a model whose common adapter stays as it is."""
    from cogen.recipe import AdapterTable, Recipe

    return Recipe(adapters=tuple(AdapterTable(path=str(p), name=n) for n, p in model.experts.items()))


def _drop(parts: Parts, names: list[str]) -> None:
    """Take experts out."""
    from cogen.merge_folder import names_of, without

    unknown = sorted(set(names) - set(parts.experts))
    if unknown or not set(parts.experts) - set(names):
        got = repr(unknown[0]) if unknown else "all of them"
        expected, fix = f"some of {', '.join(parts.experts)}", "Name the experts to take out, but not all."
        raise ConfigError("cannot take an expert out", expected=expected, got=got, where="--without", fix=fix)
    if not names:
        return
    parts.left += [name for name in parts.experts if name in names and parts.common is not None]
    parts.experts = {name: folder for name, folder in parts.experts.items() if name not in names}
    if parts.common is None:
        parts.recipe = without(parts.recipe, names_of(parts.recipe), names)


def _merged(parts: Parts, place: Path) -> Path:
    """The experts merged by the recipe, in a folder whose recipe names the experts of the routed folder."""
    from cogen.merge_folder import merge_recipe, names_of, open_all, save_checked, signed
    from cogen.recipe import RECIPE_NAME

    names = names_of(parts.recipe)
    here = [
        entry.model_copy(update={"path": str(parts.experts[name]), "name": name})
        for entry, name in zip(parts.recipe.adapters, names, strict=True)
    ]
    recipe = parts.recipe.model_copy(update={"adapters": tuple(here)})
    opened = open_all(recipe)
    with Bar("merging", MODULES, num_modules(opened.adapters)) as bar:
        merged = merge_recipe(recipe, opened, progress=lambda _: bar.advance())
    written = signed(recipe, opened)
    there = [entry.model_copy(update={"path": f"../experts/{entry.name}"}) for entry in written.adapters]
    text = written.model_copy(update={"adapters": tuple(there)}).to_toml()
    save_checked(merged, place, {RECIPE_NAME: text.encode()})
    return place


def _of_public_text(parts: Parts, path: Path) -> GateStatistics:
    """Statistics of public text, by the base of the experts."""
    from cogen.adapter import Adapter
    from cogen.base import load_base
    from cogen.data import heldout_windows, read_corpus
    from cogen.data.pack import window_batch
    from cogen.train.text_states import statistics_of

    documents = read_corpus(path).documents
    name, folder = next(iter(parts.experts.items()))
    expert = Adapter.open(folder)
    base = load_base(expert.base_name)
    base.info.require(expert, name)
    windows = heldout_windows(documents, base.tokenizer, WINDOW_TOKENS, PUBLIC_TOKENS)
    with Bar("public text", TOKENS, sum(len(w.tokens) for w in windows)) as bar:
        texts = (window_batch([w], base.start_id) for w in windows)
        return statistics_of(base, texts, lambda done: bar.advance(len(windows[done - 1].tokens)))


def _say(made: RoutedModel, out: Path, as_json: bool) -> None:
    names = list(made.experts)
    if as_json:
        print_json({"out": str(out), "experts": names, "left": list(made.manifest.left)})
        return
    print(safe(f"{out}: {len(names)} experts, {', '.join(names)}, and a common adapter"))
    if made.manifest.left:
        print(safe(f"the common adapter still has what it learned of {', '.join(made.manifest.left)}"), file=sys.stderr)
