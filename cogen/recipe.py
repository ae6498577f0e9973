"""A merge as a file: which adapters, with which weights, by which rule, and where the rule differs.

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
    """Settings of `cogen.merge.Rule`; what is dropped keeps its default."""

    method: str | None = None
    """mean, task_arithmetic, stack, ties, dare, tsv_m, regmean or iso_c."""
    scale: Number | None = None
    """Factor on the result."""
    space: str | None = None
    """core or knots: where ties and dare act."""
    density: Number | None = None
    """Share of entries that ties and dare keep."""
    calibrate: str | None = None
    """none or pico."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Of dare's draws."""
    rank: int | None = None
    """Largest rank of the result."""
    energy: Number | None = None
    """Least share of the sum of sigma^2 to keep; not with rank."""

    def settings(self) -> dict[str, Any]:
        """Those that were given."""
        return self.model_dump(include=set(RuleTable.model_fields), exclude_none=True)


class AdapterTable(Table):
    """`[[adapters]]`: one input."""

    path: Annotated[str, Field(min_length=1)]
    """An adapter folder; relative to the recipe."""
    name: Annotated[str, Field(min_length=1)] | None = None
    """None takes the adapter's domain, else the folder's name."""
    weight: Number = 1.0
    sha256: str | None = None
    """Of the factors; another is refused."""


class OverrideTable(RuleTable):
    """`[[overrides]]`: other settings for some modules."""

    modules: Annotated[str, Field(min_length=1)]
    """A pattern such as layers.0-9.*, mlp or *.q_proj."""
    weights: dict[str, Number] | None = None
    """By name of adapter; the others keep theirs."""


class Recipe(RuleTable):
    """A whole recipe."""

    adapters: tuple[AdapterTable, ...] = Field(min_length=1)
    overrides: tuple[OverrideTable, ...] = ()

    def placed_in(self, folder: Path) -> Recipe:
        """The same recipe as it reads from a file in `folder`."""
        base = folder.resolve()
        moved = [a.model_copy(update={"path": os.path.relpath(Path(a.path).resolve(), base)}) for a in self.adapters]
        return self.model_copy(update={"adapters": tuple(moved)})

    def to_toml(self) -> str:
        """The recipe as a file; reading it from the same place gives an equal one."""
        import tomli_w

        return tomli_w.dumps(self.model_dump(exclude_none=True, mode="json"))


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; paths of adapters become absolute, from the file's own folder.

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
