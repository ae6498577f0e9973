"""`cogen train`: one domain alone, without Flower."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    base: Annotated[str, typer.Option(help="Base model: a folder, a hub id, or a known name.")] = "smollm2-135m",
    data: Annotated[
        list[str], typer.Option(help="[NAME=]PATH of a corpus, or hf://datasets/OWNER/NAME; several take turns.")
    ] = [],  # noqa: B006
    domain: Annotated[str, typer.Option(help="What the adapter is called.")] = "",
    out: Annotated[Path | None, typer.Option(help="Adapter folder to write.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens to train; short for --set train.tokens_per_round.")] = None,
    replay: Annotated[str | None, typer.Option(help="General text to mix in; short for --set train.replay.")] = None,
    annealing: Annotated[str | None, typer.Option(help="Text to end on; short for --set train.annealing.")] = None,
    heldout_frac: Annotated[float, typer.Option(help="Share of documents never trained on.")] = 0.05,
    settings: Annotated[
        list[str],
        typer.Option("--set", help="train.KEY=VALUE, data.KEY=VALUE or base.precision=VALUE, such as train.rank=8."),
    ] = [],  # noqa: B006
    gram: Annotated[
        bool,
        typer.Option("--gram", help="Keep second moments of layer inputs beside it, for cogen merge --method regmean."),
    ] = False,
    lr_range_test: Annotated[
        bool, typer.Option("--lr-range-test", help="Try learning rates for a few steps each and name the one to take.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Continue from the state saved beside the adapter folder.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an adapter that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Continue pretraining a base model on one corpus with LoRA.

    Example: cogen train --base smollm2-135m --data seeds/grid.jsonl --domain grid --out adapters/grid
    """
    from cogen.train.memory import tune_allocator

    tune_allocator()
    from cogen.cli.run_train import run_train

    short = {
        "tokens_per_round": tokens,
        "replay": replay and f"'{replay}'",
        "annealing": annealing and f"'{annealing}'",
    }
    extra = [f"train.{key}={value}" for key, value in short.items() if value is not None]
    run_train(
        base, data, domain, out, heldout_frac, [*extra, *settings],
        gram=gram, lr_range_test=lr_range_test, resume=resume, overwrite=overwrite, as_json=as_json,
    )  # fmt: skip
