"""`cogen merge`: combine adapter folders into one, or take one out of a merge again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cogen.cli.options import LARGEST_SEED, Adapters, AsJson, Overwrite, Without, in_bounds

METHODS = "mean, task_arithmetic, stack, ties, dare, tsv_m, regmean or iso_c. [default: tsv_m]"
Weights = Annotated[str, typer.Option("--weights", help="As in 2,1,1, one per adapter; equal by default.")]
Method = Annotated[str | None, typer.Option("--method", help=METHODS)]
Scale = Annotated[float | None, typer.Option("--scale", help="Factor on the combination. [default: 1]")]
Rank = Annotated[int | None, typer.Option("--rank", help="Largest rank of the result; uncut without it.")]
Energy = Annotated[float | None, typer.Option("--energy", help="Share of sigma^2 to keep instead, as in 0.99.")]
Density = Annotated[float | None, typer.Option("--density", help="Share that ties and dare keep. [default: 1]")]
Space = Annotated[str | None, typer.Option("--space", help="Of ties and dare: core or knots. [default: core]")]
Calibrate = Annotated[str | None, typer.Option("--calibrate", help="pico: lower over-shared directions first.")]
RuleSeed = Annotated[
    int | None, typer.Option("--seed", help="Random seed of dare. [default: 0]", callback=in_bounds(0, LARGEST_SEED))
]


def merge(
    inputs: Adapters,
    out: Annotated[Path | None, typer.Option(help="Folder to write.")] = None,
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
    routed: Annotated[bool, typer.Option("--routed", help="Keep every adapter, and add a gate.")] = False,
    common: Annotated[Path | None, typer.Option(help="Of --routed: for text of no domain.")] = None,
    public: Annotated[Path | None, typer.Option(help="Of --routed: such text, to know it by.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Merge adapters of one base into one adapter.

    delta_W = scale * rule(delta_1 ... delta_K). The base model is not needed.
    To take an adapter out of a merge, name the merged folder and --without. With --routed the
    adapters stay apart, and a gate chooses one by the text; their merge is for other text.

    Example: cogen merge adapters/grid adapters/clinical --out merged --rank 32
    """
    from cogen.cli.recipes import read_recipe, require_new_adapter, write_merge
    from cogen.cli.routed import write_routed_model
    from cogen.errors import ConfigError
    from cogen.merge_folder import open_all

    if out is None:
        raise ConfigError("cannot merge", expected="--out", got="nothing", fix="Name the folder to write.")
    settings = {"method": method, "scale": scale, "rank": rank, "energy": energy, "density": density}
    settings |= {"space": space, "calibrate": calibrate, "seed": seed}
    for option, value in (("--common", common), ("--public", public)):
        if value is not None and not routed:
            raise ConfigError("cannot merge", expected=f"--routed with {option}", got="none", fix="Add --routed.")
    if routed:
        write_routed_model(
            inputs, weights, settings, common, public, without, out, overwrite=overwrite, as_json=as_json
        )
        return
    recipe = read_recipe(inputs, weights, settings, without)
    require_new_adapter(out, overwrite)
    write_merge(recipe, open_all(recipe), out, {}, as_json)
