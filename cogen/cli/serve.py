"""`cogen serve`: the coordinator's side of a real federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    config: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped one.")],
    public_address: Annotated[
        str | None, typer.Option(help="HOST:PORT by which domains reach this machine; remembered.")
    ] = None,
    bind: Annotated[str, typer.Option(help="Address of this machine to listen on.")] = "0.0.0.0",
    folder: Annotated[Path, typer.Option(help="Where the federation is kept.")] = Path("federation"),
    certificate: Annotated[
        Path | None, typer.Option(help="PEM of your own certificate; one is made without it.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="PEM of its key.")] = None,
    ca: Annotated[
        Path | None, typer.Option(help="PEM of its authority, where it is not in the certificate's file.")
    ] = None,
) -> None:
    """Serve a federation until it is stopped: domains enrol and connect here.

    Example: cogen serve federation.toml --public-address fed.example.org:9443
    """
    from cogen.cli.run_serve import run_serve
    from cogen.deploy.serve import Door

    run_serve(config, folder, Door(public_address, bind, certificate, key, ca))
