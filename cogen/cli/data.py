"""`cogen data`: what is in a corpus, and what cleaning makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def data(
    path: Annotated[str, typer.Argument(help="A file, a folder, or hf://datasets/OWNER/NAME.")],
    base: Annotated[str, typer.Option(help="Base model whose tokens are counted.")] = "smollm2-135m",
    out: Annotated[
        Path | None, typer.Option(help="Folder for card.json and card.html; cards/<name> without it.")
    ] = None,
    heldout_frac: Annotated[float, typer.Option(help="Share of documents never trained on.")] = 0.05,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first file or line that cannot be read.")
    ] = False,
    redact: Annotated[bool, typer.Option("--redact", help="Replace personal data by their kind.")] = False,
    perplexity_filter: Annotated[
        bool, typer.Option("--perplexity-filter", help="Drop what is gibberish or trivial to the base.")
    ] = False,
    cost: Annotated[bool, typer.Option(help="Train a few blocks to say how long training will take.")] = True,
    settings: Annotated[
        list[str], typer.Option("--set", help="data.KEY=VALUE or train.KEY=VALUE, such as data.quality=false.")
    ] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Clean a corpus, split it, count its tokens, and write its data card; training finds it prepared.

    Example: cogen data seeds/clinical.jsonl --base smollm2-135m
    """
    from cogen.train.memory import tune_allocator

    tune_allocator()
    from cogen.cli.run_data import run_data

    flags = {"strict": strict, "redact": redact, "perplexity_filter": perplexity_filter}
    given = [f"data.{name}=true" for name, value in flags.items() if value]
    run_data(path, base, out, heldout_frac, [*given, *settings], with_cost=cost, as_json=as_json)
