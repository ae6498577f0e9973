"""Merges from and to disk: run a recipe, write the result whole, and check it by reading it back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cogen.adapter import Adapter
from cogen.adapter.folder import MANIFEST_NAME, Manifest
from cogen.errors import AdapterError, ConfigError, MergeError
from cogen.files import building_folder, write_file
from cogen.merge import Merged, Override, Rule, SelfCheck, merge_adapters, self_check
from cogen.merge.plan import require_distinct
from cogen.parallel import in_parallel
from cogen.recipe import RECIPE_NAME, OverrideTable, Recipe, load_recipe
from cogen.versions import versions


@dataclass(frozen=True)
class Opened:
    """The adapters of a recipe, and their names."""

    adapters: list[Adapter]
    names: list[str]

    def by_name(self) -> dict[str, Adapter]:
        """Name to adapter."""
        return dict(zip(self.names, self.adapters, strict=True))


def open_all(recipe: Recipe) -> Opened:
    """Open every adapter of a recipe; factors stay on disk until they are read.

    Raises:
        AdapterError: an adapter cannot be used, or its hash is not the one in the recipe.
        MergeError: two adapters have the same name.
    """
    names = names_of(recipe)
    require_distinct(names)
    adapters = list(in_parallel(Adapter.open, [entry.path for entry in recipe.adapters]))  # each is hashed
    for entry, adapter in zip(recipe.adapters, adapters, strict=True):
        if entry.sha256 is not None and entry.sha256 != adapter.digest:
            raise AdapterError(
                "cannot follow recipe",
                expected=f"factors with sha256 {entry.sha256[:12]}",
                got=adapter.digest[:12],
                where=entry.path,
                fix="Point the recipe at the adapter that it was written for, or take its sha256 out.",
            )
    return Opened(adapters, names)


def names_of(recipe: Recipe) -> list[str]:
    """The name of each adapter: from the recipe, else its domain, else its folder."""
    return [entry.name or _domain(Path(entry.path)) or Path(entry.path).resolve().name for entry in recipe.adapters]


def _domain(folder: Path) -> str:
    """The domain in `cogen.json`; empty if the file is missing or cannot be read, which opening it will refuse."""
    try:
        found = Manifest.load(folder / MANIFEST_NAME)
    except AdapterError:
        return ""
    return str((found.model_extra or {}).get("domain") or "")


def merge_recipe(recipe: Recipe, opened: Opened, progress: Callable[[str], None] | None = None) -> Merged:
    """Merge the adapters of a recipe.

    Raises:
        MergeError: a setting cannot work, two adapters have the same name, or an override names no adapter.
    """
    weights = [a.weight for a in recipe.adapters]
    overrides = [_override(o, opened.names, weights) for o in recipe.overrides]
    settings = recipe.settings()
    return merge_adapters(
        opened.adapters, weights, **settings, overrides=overrides, names=opened.names, progress=progress
    )


def folders_of(recipe: Recipe) -> dict[str, str]:
    """The adapters' names and folders.

    Raises:
        MergeError: two adapters have the same name.
    """
    names = names_of(recipe)
    require_distinct(names)
    return {name: entry.path for name, entry in zip(names, recipe.adapters, strict=True)}


def _override(table: OverrideTable, names: Sequence[str], weights: Sequence[float]) -> Override:
    changed = table.weights or {}
    if unknown := sorted(changed.keys() - set(names)):
        raise ConfigError(
            "cannot use recipe",
            expected=f"one of {', '.join(names)}",
            got=repr(unknown[0]),
            where=f"weights of the override for {table.modules!r}",
            fix="Name an adapter of the recipe.",
        )
    own = tuple(changed.get(n, w) for n, w in zip(names, weights, strict=True)) if changed else None
    return Override(table.modules, table.settings(), own)


def save_checked(merged: Merged, out: Path, files: Mapping[str, bytes] | None = None) -> SelfCheck:
    """Write a merged adapter, read it back and check it; the folder appears whole or not at all.

    Args:
        files: further files for the folder, name to content.
    Raises:
        MergeError: the adapter on disk is further from the intended update than the cut explains.
        RunError: the disk is full or the folder cannot be written.
    """
    with building_folder(out) as staging:
        merged.adapter.save(staging)
        found = self_check(Adapter.open(staging).factors, merged.checksums, merged.mean_energy_cut_frac)
        if not found.has_passed:
            raise MergeError(
                "merge failed its own check",
                expected=f"a relative error of at most {2 * found.expected_error + 1e-4:.1e}",
                got=f"{found.error:.1e}",
                where=str(out),
                fix="Nothing was written; check the disk and memory of this machine and run it again.",
            )
        manifest = {**merged.adapter.manifest, "self_check": asdict(found), "versions": versions()}
        checked = replace(merged.adapter, manifest=manifest)
        vars(checked)["digest"] = merged.adapter.digest
        write_file(staging / MANIFEST_NAME, checked.manifest_json().encode())
        for name, content in (files or {}).items():
            write_file(staging / name, content)
    return found


def signed(recipe: Recipe, opened: Opened) -> Recipe:
    """The recipe with its method and each adapter's name and hash filled in, as it is saved with the result."""
    pairs = zip(recipe.adapters, opened.names, opened.adapters, strict=True)
    filled = [e.model_copy(update={"name": n, "sha256": a.digest}) for e, n, a in pairs]
    return recipe.model_copy(update={"adapters": tuple(filled), "method": recipe.method or Rule().method})


def recipe_of(folder: Path) -> Recipe:
    """The recipe of a merged folder.

    Raises:
        MergeError: it was not made by `cogen merge`, so no adapter can be taken out of it.
    """
    if (folder / RECIPE_NAME).is_file():
        return load_recipe(folder / RECIPE_NAME)
    manifest = Adapter.open(folder).manifest
    fix = "Merge its adapters again, without the one."
    if manifest.get("kind") == "global" and manifest.get("schedule") == "relay":
        fix = "Every domain trained what the others had trained before it; run the relay again without it."
    elif manifest.get("kind") == "global" and manifest.get("round", 0) > 1:
        fix = (
            "Every later round was trained on top of all domains, so no domain can be taken out exactly; "
            "run the rounds again without it."
        )
    elif manifest.get("kind") == "global":
        fix = "With one round the replies are in experts/: merge the others with --scale and --rank of the run."
    raise MergeError(
        "cannot take an adapter out",
        expected=f"a folder with {RECIPE_NAME}, as cogen merge writes it",
        got=f"one of kind {manifest.get('kind', 'unknown')!r}",
        where=str(folder),
        fix=fix,
    )


def without(recipe: Recipe, names: Sequence[str], dropped: Sequence[str]) -> Recipe:
    """The recipe without some of its adapters, as if they had never been part of it.

    Args:
        names: names of the recipe's adapters, in order.
        dropped: names of the adapters to take out.
    Raises:
        MergeError: no such adapter, or no adapter would be left.
    """
    unknown = sorted(set(dropped) - set(names))
    kept = [entry for entry, name in zip(recipe.adapters, names, strict=True) if name not in dropped]
    if unknown or not kept:
        raise MergeError(
            "cannot take an adapter out",
            expected=f"some of {', '.join(names)}",
            got=repr(unknown[0]) if unknown else "all of them",
            fix="Name the adapters to take out, but not all.",
        )
    gone = set(dropped)
    overrides = [
        o.model_copy(update={"weights": {n: w for n, w in o.weights.items() if n not in gone} or None})
        if o.weights
        else o
        for o in recipe.overrides
    ]
    return recipe.model_copy(update={"adapters": tuple(kept), "overrides": tuple(overrides)})
