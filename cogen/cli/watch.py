"""`cogen watch`: a run as it happens, in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def watch(
    run: Annotated[
        Path | None, typer.Argument(help="A run folder; it may be yet to come. The newest in runs/.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; other than loopback needs the printed token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int | None, typer.Option(help="Port; 8420 without it, or a free one.")] = None,
) -> None:
    """Show a run in the browser while it goes on: clients, curves, the matrix so far. Ctrl-C ends it.

    Example: cogen watch runs/quickstart
    """
    from cogen.cli.run_watch import run_watch

    run_watch(run, host, port)
