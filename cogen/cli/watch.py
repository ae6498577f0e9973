"""`cogen watch`: a run in the browser while it goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cogen.cli.options import in_bounds

RUNS = Path("runs")


def watch(
    run: Annotated[
        Path | None, typer.Argument(help="Run folder, also of a run yet to start; the newest by default.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port; by default 8420 or a free one.", callback=in_bounds(0, 65535))
    ] = None,
) -> None:
    """Show a run in the browser while it goes on.

    The page has clients, curves and the matrix so far. Ctrl-C ends it. From another machine
    than this one, the page asks for the token that is printed.

    Example: cogen watch runs/quickstart
    """
    from cogen.report.watch import make_server, open_address

    folder = newest_run() if run is None else run
    address = open_address(host, port)
    print(address.url, flush=True)
    print(f"showing {folder}; Ctrl-C ends it", file=sys.stderr)
    if address.token:
        print("the connection is not encrypted: anyone who can read this network can read the page", file=sys.stderr)
    make_server(folder, address).run(sockets=[address.listener])


def newest_run() -> Path:
    """The folder in runs/ whose events or settings were written last.

    Raises:
        RunError: there is none.
    """
    from cogen.errors import RunError

    written = {path.parent: path.stat().st_mtime for path in sorted(RUNS.glob("*/config.toml"))}
    written |= {path.parent: path.stat().st_mtime for path in sorted(RUNS.glob("*/events.jsonl"))}
    if not written:
        raise RunError(
            "no run to watch",
            expected="a run folder in runs/",
            got="none",
            where=str(RUNS.resolve()),
            fix="Name a run folder; the run may start later.",
        )
    return max(written, key=written.__getitem__)
