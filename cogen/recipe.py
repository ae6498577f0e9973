"""A merge as a file: adapters, weights, the merge rule, and overrides for some modules.

# cogen merge recipe.toml --out merged
method = "ties"
density = 0.3
scale = 1.4
rank = 32

[[adapters]]
path = "adapters/clinical"
weight = 2.0

[[adapters]]
path = "adapters/grid"

[[overrides]]
modules = "layers.0-9.*"
scale = 1.0
weights = { grid = 0.5 }
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from cogen.records import Table, read_toml, validated

RECIPE_NAME = "recipe.toml"
Number = Annotated[float, Field(allow_inf_nan=False)]


class RuleTable(Table):
    """Settings of `cogen.merge.Rule`; missing ones keep their default."""

    method: str | None = None
    """mean, task_arithmetic, stack, ties, dare, tsv_m, regmean or iso_c."""
    scale: Number | None = None
    """The merged update is multiplied by this."""
    space: str | None = None
    """core or knots: the basis in which ties and dare act on entries."""
    density: Number | None = None
    """Share of entries that ties and dare keep."""
    calibrate: str | None = None
    """pico scales down output directions that many adapters write to; none does not."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Seed of the random draws of dare."""
    rank: int | None = None
    """Highest rank of the merged adapter."""
    energy: Number | None = None
    """Keep the lowest rank that holds this share of the sum of sigma^2; not together with rank."""

    def settings(self) -> dict[str, Any]:
        """The settings that are in the file."""
        return self.model_dump(include=set(RuleTable.model_fields), exclude_none=True)


class AdapterTable(Table):
    """`[[adapters]]`: one adapter to merge."""

    path: Annotated[str, Field(min_length=1)]
    """The adapter folder, relative to the recipe."""
    name: Annotated[str, Field(min_length=1)] | None = None
    """Name of the adapter; without it, its domain, or else the name of its folder."""
    weight: Number = 1.0
    """Weight in the merge."""
    sha256: str | None = None
    """sha256 of the factors; an adapter with other factors is refused."""


class OverrideTable(RuleTable):
    """`[[overrides]]`: other settings for some modules."""

    modules: Annotated[str, Field(min_length=1)]
    """Pattern of the modules, such as layers.0-9.*, mlp or *.q_proj."""
    weights: dict[str, Number] | None = None
    """Weights for these modules by name of the adapter; other adapters keep theirs."""


class Recipe(RuleTable):
    """A whole recipe."""

    adapters: tuple[AdapterTable, ...] = Field(min_length=1)
    overrides: tuple[OverrideTable, ...] = ()

    def placed_in(self, folder: Path) -> Recipe:
        """The same recipe with paths relative to `folder`, where its file will be."""
        base = folder.resolve()
        moved = [a.model_copy(update={"path": os.path.relpath(Path(a.path).resolve(), base)}) for a in self.adapters]
        return self.model_copy(update={"adapters": tuple(moved)})

    def to_toml(self) -> str:
        """The recipe as TOML; reading it from the same folder gives an equal recipe."""
        import tomli_w

        return tomli_w.dumps(self.model_dump(exclude_none=True, mode="json"))


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; paths of adapters become absolute, starting from the folder of the file.

    Raises:
        ConfigError: missing file, bad TOML, unknown key, value out of bounds.
    """
    values: Mapping[str, Any] = read_toml(path)
    recipe = validated(Recipe, values, str(path))
    folder = path.resolve().parent
    placed = [
        a.model_copy(update={"path": str((folder / Path(a.path).expanduser()).resolve())}) for a in recipe.adapters
    ]
    return recipe.model_copy(update={"adapters": tuple(placed)})
