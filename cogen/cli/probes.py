"""`cogen probes`: probes made from a domain's own text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make multiple-choice probes from text.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Make multiple-choice probes from text."""


@app.command("make")
def make(
    path: Annotated[str, typer.Argument(help="A corpus of the domain; its held-out part is read.")],
    general: Annotated[str, typer.Option(help="A corpus of general text, which terms are told apart from.")],
    out: Annotated[Path, typer.Option(help="File to write, one probe a line.")],
    base: Annotated[str, typer.Option(help="Base model by whose preparation text is held out.")] = "smollm2-135m",
    heldout_frac: Annotated[float, typer.Option(help="As in training; 1 reads everything.")] = 0.05,
    num: Annotated[int, typer.Option(help="Probes to make, at most.")] = 200,
    max_terms: Annotated[int, typer.Option(help="Terms that they may ask for, the most typical first.")] = 400,
    seed: Annotated[int, typer.Option(help="The same seed gives the same probes.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Blank terms of a domain in its own sentences: the sentence so far, the term, and three others.

    Example: cogen probes make seeds/grid.jsonl --general seeds/education.jsonl --heldout-frac 1 --out grid-cloze.jsonl
    """
    from cogen.cli.run_probes import Making, run_make

    run_make(Making(path, general, base, heldout_frac, num, max_terms, seed), out, overwrite=overwrite, as_json=as_json)
