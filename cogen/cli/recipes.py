"""What merge, diagnose, search and contributions share: the adapters on the command line as a recipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogen.cli.options import require_new_folder
from cogen.console import MODULES, Bar, print_json, safe, typed_text
from cogen.errors import ConfigError, WeightError

if TYPE_CHECKING:
    from cogen.adapter import Adapter
    from cogen.merge_folder import Opened
    from cogen.recipe import AdapterTable, Recipe


def read_recipe(inputs: list[str], weights: str, settings: Mapping[str, Any], without: list[str]) -> Recipe:
    """The recipe that the command line describes.

    Args:
        inputs: adapter folders, or one recipe file; with `without` also one merged folder.
        settings: of the rule, which replace those of the recipe.
        without: names of adapters to omit.
    """
    from cogen.merge_folder import names_of, recipe_of
    from cogen.merge_folder import without as recipe_without
    from cogen.recipe import Recipe, load_recipe

    only = Path(inputs[0]) if len(inputs) == 1 else None
    if only is not None and only.suffix == ".toml":
        recipe = load_recipe(only)
    elif only is not None and without:
        recipe = recipe_of(only)
    else:
        recipe = Recipe(adapters=tuple(_adapter(text) for text in inputs))
    if numbers := _weights(weights):
        if len(numbers) != len(recipe.adapters):
            raise _bad_weights(f"{len(recipe.adapters)} numbers", str(len(numbers)))
        pairs = zip(recipe.adapters, numbers, strict=True)
        recipe = recipe.model_copy(update={"adapters": tuple(a.model_copy(update={"weight": w}) for a, w in pairs)})
    recipe = recipe.model_copy(update={name: value for name, value in settings.items() if value is not None})
    return recipe_without(recipe, names_of(recipe), without) if without else recipe


def require_no_overrides(recipe: Recipe, command: str) -> None:
    """Raise ConfigError where a recipe has settings for single modules, which `command` cannot use."""
    if recipe.overrides:
        fix = "Remove [[overrides]] from the recipe."
        raise ConfigError("cannot use recipe", expected=f"no overrides for cogen {command}", got="some", fix=fix)


def require_new_adapter(out: Path, overwrite: bool) -> None:
    """Raise RunError where writing to `out` would replace anything but an adapter that the user gave up."""
    from cogen.adapter.peft_config import CONFIG_NAME

    require_new_folder(out, CONFIG_NAME, "an adapter", overwrite)


def write_merge(recipe: Recipe, opened: Opened, out: Path, files: Mapping[str, bytes], as_json: bool) -> None:
    """Merge with a bar over modules, write the folder with its recipe and `files`, read it back and print a line."""
    from cogen.merge_folder import merge_recipe, save_checked, signed
    from cogen.recipe import RECIPE_NAME

    _say_doubts(opened)
    with Bar("merging", MODULES, num_modules(opened.adapters)) as bar:
        merged = merge_recipe(recipe, opened, progress=lambda _: bar.advance())
    text = signed(recipe, opened).placed_in(out).to_toml()
    check = save_checked(merged, out, {RECIPE_NAME: text.encode(), **files})
    count, cut, rank = len(opened.adapters), merged.mean_energy_cut_frac, merged.adapter.rank
    if as_json:
        values = {"out": str(out), "num_adapters": count, "rank": rank, "energy_cut_frac": cut, "error": check.error}
        print_json(values)
    else:
        print(f"{out}: {count} adapters, rank {rank}, energy cut off {cut:.2%}, read back to {check.error:.1e}")


def _say_doubts(opened: Opened) -> None:
    """Name on stderr each adapter that names another base than one with a fingerprint does."""
    from cogen.base import doubt

    known = next((a.base_name for a in opened.adapters if a.fingerprint is not None), "")
    for name, adapter in opened.by_name().items() if known else ():
        if line := doubt(adapter, name, known):
            print(f"warning: {safe(line)}", file=sys.stderr)


def num_modules(adapters: Iterable[Adapter]) -> int:
    """How many modules any of the adapters has."""
    return len(set().union(*(a.factors for a in adapters)))


def _adapter(text: str) -> AdapterTable:
    from cogen.recipe import AdapterTable

    text = typed_text(text, "an adapter's folder")  # a recipe keeps it, in UTF-8
    name, equals, path = text.partition("=")
    if not equals or Path(text).is_dir():
        return AdapterTable(path=text)
    if not name or not path:
        fix = "Give a folder, or a name and a folder."
        raise ConfigError("cannot use adapter", expected="[NAME=]FOLDER", got=repr(text), fix=fix)
    return AdapterTable(path=path, name=name)


def _weights(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise _bad_weights("numbers, as in 2,1,1", repr(text)) from None


def _bad_weights(expected: str, got: str) -> WeightError:
    return WeightError("cannot use weights", expected=expected, got=got, where="--weights", fix="Change --weights.")
