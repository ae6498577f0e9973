"""`cogen chat`: talk to base, experts and combined model in one session."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def chat(
    source: Annotated[Path | None, typer.Argument(help="A run or adapter folder; the newest run without it.")] = None,
    model: Annotated[
        str | None, typer.Option(help="base, combined, expert:DOMAIN or a name; switch with /use.")
    ] = None,
    adapters: Annotated[list[str], typer.Option("--adapter", help="NAME=FOLDER, one more model.")] = [],  # noqa: B006
    base: Annotated[str | None, typer.Option(help="Base model, if the folders do not name it.")] = None,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Every reply by every model, in columns.")
    ] = False,
    template: Annotated[
        bool, typer.Option("--template", help="Use the base's own form of chat, if it was taught one.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.7,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
) -> None:
    """Talk to the models of a run: each line of text is continued. /help lists what else can be said.

    Example: cogen chat runs/quickstart
    """
    from cogen.cli.run_chat import run_chat

    run_chat(source, model, adapters, base, side_by_side, template, max_tokens, temperature, seed)
