"""`cogen merge`: combine adapter folders exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    adapters: Annotated[list[Path], typer.Argument(help="Adapter folders, made here or by PEFT.")],
    out: Annotated[Path, typer.Option(help="Adapter folder to write.")],
    weights: Annotated[str, typer.Option(help="Comma-separated, one an adapter; equal without it. Normalised.")] = "",
    rank: Annotated[int | None, typer.Option(help="Largest rank of the result; without it nothing is cut.")] = None,
    scale: Annotated[float, typer.Option(help="Factor on the combination; the mean is 1.")] = 1.0,
    method: Annotated[str, typer.Option(help="mean, ties or dare.")] = "mean",
    density: Annotated[float, typer.Option(help="Share of entries that ties and dare keep.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of what dare drops.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Combine adapters of one base: delta_W = scale * sum_k w_k delta_W_k, exact unless --rank cuts it.

    Example: cogen merge adapters/grid adapters/clinical --out merged --rank 32
    """
    from cogen.cli.run_merge import run_merge

    run_merge(adapters, out, weights, rank, scale, method, density, seed, as_json=as_json)
