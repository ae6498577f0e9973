"""`cogen evaluate`: bits per byte of adapters on held-out text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    base: Annotated[str, typer.Option(help="Base model: a folder, a hub id, or a known name.")] = "smollm2-135m",
    adapter: Annotated[list[str], typer.Option(help="NAME=DIR; as often as you like.")] = [],  # noqa: B006
    data: Annotated[list[str], typer.Option(help="NAME=PATH of a corpus; its held-out part is read.")] = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="evaluation.json to write.")] = None,
    heldout_frac: Annotated[float, typer.Option(help="As in training; 1 reads everything.")] = 0.05,
    max_heldout_tokens: Annotated[int, typer.Option(help="Per corpus.")] = 8192,
    block_tokens: Annotated[int, typer.Option(help="Window that a long document is cut into.")] = 512,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Score the base and adapters on the held-out part of corpora, in bits per byte.

    Example: cogen evaluate --adapter combined=runs/quickstart/merged --data grid=seeds/grid.jsonl
    """
    from cogen.train.memory import keep_pages

    keep_pages()
    from cogen.cli.run_evaluate import run_evaluate

    run_evaluate(base, adapter, data, out, heldout_frac, max_heldout_tokens, block_tokens, as_json=as_json)
