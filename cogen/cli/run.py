"""`cogen run`: the rounds of a real federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    config: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped one.")],
    settings: Annotated[list[str], typer.Option("--set", help="table.key=value, for example train.rank=8.")] = [],  # noqa: B006
    resume: Annotated[bool, typer.Option(help="Continue from the last complete round.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a run that is there.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the federation is kept.")] = Path("federation"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Run the rounds of a federation that is served, on the domains that have joined.

    Example: cogen run federation.toml
    """
    from cogen.cli.run_rounds import run_rounds

    run_rounds(config, folder, settings, resume=resume, overwrite=overwrite, as_json=as_json)
