"""`cogen simulate`: a whole federation on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    config: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped one (quickstart).")],
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/<name of the config> without it.")] = None,
    settings: Annotated[list[str], typer.Option("--set", help="table.key=value, for example train.rank=8.")] = [],  # noqa: B006
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Train every domain alone and one adapter on all text, to compare with.")
    ] = False,
    seeds: Annotated[int | None, typer.Option(help="Run it this many times, each with a seed of its own.")] = None,
    general: Annotated[
        str | None, typer.Option(help="Text that nobody trains on, to see what is forgotten; PATH or hf://datasets/...")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue with the first thing that is missing.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a run that is there.")] = False,
    port: Annotated[
        int | None, typer.Option(help="Port for Flower's SuperLink on loopback; free one without it.")
    ] = None,
    watch: Annotated[bool, typer.Option(help="Show the run in the browser as it goes on.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Simulate a federation: every domain trains, the server combines, a table says what it gave.

    Example: cogen simulate configs/quickstart.toml
    """
    from cogen.train.memory import tune_allocator

    tune_allocator()
    from cogen.cli.run_simulate import run_simulate, summary_settings

    overrides = [*settings, *summary_settings(baselines, seeds, general)]
    run_simulate(config, out, overrides, resume=resume, overwrite=overwrite, port=port, watch=watch, as_json=as_json)
