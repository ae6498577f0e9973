"""The work of `cogen merge`, imported only when it runs."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from cogen.adapter import Adapter
from cogen.cli.show import print_json
from cogen.errors import WeightError
from cogen.merge import Merged, merge_adapters


def run_merge(
    folders: list[Path],
    out: Path,
    weights: str,
    rank: int | None,
    scale: float,
    method: str,
    density: float,
    seed: int,
    *,
    as_json: bool,
) -> None:
    """Load, combine with a bar over modules, save, say how much energy a cut lost."""
    adapters = [Adapter.load(folder) for folder in folders]
    total = len(set().union(*(a.factors for a in adapters)))
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("merging", total=total)
        merged = merge_adapters(
            adapters,
            _weights(weights),
            rank=rank,
            scale=scale,
            method=method,
            density=density,
            seed=seed,
            progress=lambda _: bar.advance(task),
        )
    merged.adapter.save(out)
    _say(merged, out, len(adapters), as_json)


def _weights(text: str) -> list[float] | None:
    try:
        return [float(part) for part in text.split(",")] if text else None
    except ValueError:
        raise WeightError(
            "cannot use weights", expected="numbers, as in 2,1,1", got=repr(text), where="--weights", fix="Mend them."
        ) from None


def _say(merged: Merged, out: Path, count: int, as_json: bool) -> None:
    cut, rank = merged.mean_energy_cut_frac, merged.adapter.rank
    if as_json:
        print_json({"out": str(out), "num_adapters": count, "rank": rank, "energy_cut_frac": cut})
    else:
        print(f"{out}: {count} adapters, rank {rank}, energy cut off {cut:.2%}")
