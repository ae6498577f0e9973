"""`cogen generate`: text from a base, an expert or a combined model, for scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def generate(
    prompts: Annotated[list[str], typer.Argument(help="Texts to continue; - reads them from stdin, one a line.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="A run or adapter folder; the newest run without it.")
    ] = None,
    models: Annotated[
        list[str], typer.Option("--model", help="base, combined, expert:DOMAIN or a name; the first without it.")
    ] = [],  # noqa: B006
    adapters: Annotated[list[str], typer.Option("--adapter", help="NAME=FOLDER, one more model.")] = [],  # noqa: B006
    base: Annotated[str | None, typer.Option(help="Base model, if the folders do not name it.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply in tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the draws at a temperature above 0.")] = 0,
    stop: Annotated[str | None, typer.Option(help="Text that ends a reply.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a reply: model, prompt, text, logprobs.")
    ] = False,
) -> None:
    """Continue texts with one model or several.

    Example: cogen generate "A distance relay trips when" --from runs/quickstart --model base --model combined
    """
    from cogen.cli.run_generate import run_generate

    run_generate(prompts, source, models, adapters, base, max_tokens, temperature, seed, stop, as_json=as_json)
