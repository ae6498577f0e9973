"""`cogen merge`: combine adapter folders, look at them first, search for the best way, take one out again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER...",
            help="[NAME=]FOLDER of adapters, made here or by PEFT; or one recipe.toml; or, with --without, one merge.",
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to write: the adapter, or what was looked at.")] = None,
    weights: Annotated[str, typer.Option(help="Comma-separated, one an adapter; equal without it. Normalised.")] = "",
    method: Annotated[
        str | None,
        typer.Option(help="mean, task_arithmetic, stack, ties, dare, tsv_m, regmean or iso_c. [default: tsv_m]"),
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Factor on the combination. [default: 1]")] = None,
    rank: Annotated[int | None, typer.Option(help="Largest rank of the result; without it nothing is cut.")] = None,
    energy: Annotated[float | None, typer.Option(help="Share of sigma^2 to keep instead, such as 0.99.")] = None,
    density: Annotated[
        float | None, typer.Option(help="Share of entries that ties and dare keep. [default: 1]")
    ] = None,
    space: Annotated[str | None, typer.Option(help="Where ties and dare act: core or knots. [default: core]")] = None,
    calibrate: Annotated[str | None, typer.Option(help="pico turns over-shared directions down before.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of what dare drops. [default: 0]")] = None,
    without: Annotated[list[str], typer.Option(help="Leave this adapter out.")] = [],  # noqa: B006
    diagnose: Annotated[bool, typer.Option("--diagnose", help="Only look: overlap, conflict, outliers.")] = False,
    search: Annotated[bool, typer.Option("--search", help="Find method, scale and weights on --data first.")] = False,
    contributions: Annotated[
        bool, typer.Option("--contributions", help="Only look: what each adapter does for each of --data.")
    ] = False,
    base: Annotated[str, typer.Option(help="Base model, for --search and --contributions.")] = "smollm2-135m",
    data: Annotated[list[str], typer.Option(help="[NAME=]PATH of a domain's corpus to score on.")] = [],  # noqa: B006
    general: Annotated[str | None, typer.Option(help="Corpus of general text that --search guards.")] = None,
    budget: Annotated[int, typer.Option(help="Merges that --search may score.")] = 24,
    candidates: Annotated[
        str, typer.Option("--try", help="Methods for --search, as in mean,ties:0.5,tsv_m,mean+pico.")
    ] = "",
    permutations: Annotated[int, typer.Option(help="Orders drawn for Shapley values.")] = 8,
    heldout_frac: Annotated[float, typer.Option(help="As in training; this part is not looked at.")] = 0.05,
    validation_frac: Annotated[float, typer.Option(help="Share of documents next to it to score on.")] = 0.1,
    max_tokens: Annotated[int, typer.Option(help="Scored of each corpus.")] = 2048,
    sequence_length: Annotated[int, typer.Option(help="Window that a long document is cut into.")] = 512,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an adapter that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Combine adapters of one base: delta_W = scale * rule(delta_1 ... delta_K); the base is not needed.

    Example: cogen merge adapters/grid adapters/clinical --out merged --rank 32
    """
    if search or contributions:
        from cogen.train.memory import tune_allocator

        tune_allocator()
    from cogen.cli.run_merge import Look, Scoring, run_merge

    given = {"method": method, "scale": scale, "rank": rank, "energy": energy, "density": density}
    given |= {"space": space, "calibrate": calibrate, "seed": seed}
    settings = {name: value for name, value in given.items() if value is not None}
    look = Look(diagnose, search, contributions)
    scoring = Scoring(
        base,
        data,
        general,
        budget,
        candidates,
        permutations,
        heldout_frac,
        validation_frac,
        max_tokens,
        sequence_length,
    )
    run_merge(inputs, out, weights, settings, without, look, scoring, overwrite=overwrite, as_json=as_json)
