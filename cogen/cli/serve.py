"""`cogen serve`: the coordinator of a real federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cogen.cli.options import FEDERATION, Federation
from cogen.console import safe


def serve(
    config: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped config.")],
    public_address: Annotated[str | None, typer.Option(help="HOST:PORT that domains connect to; remembered.")] = None,
    bind: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",
    folder: Federation = FEDERATION,
    certificate: Annotated[Path | None, typer.Option(help="PEM file; a certificate is made without it.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's key.")] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM file of the authority, if separate.")] = None,
) -> None:
    """Start the coordinator: domains enrol and connect here.

    It serves until Ctrl-C or SIGTERM ends it.

    Example: cogen serve federation.toml --public-address fed.example.org:9443
    """
    import signal
    import sys
    import threading

    from cogen.deploy import serve as deploy
    from cogen.deploy.folder import FederationFolder

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    door = deploy.Door(public_address, bind, certificate, key, ca)
    deploy.serve(
        config, FederationFolder(folder), door, lambda line: print(safe(line), file=sys.stderr, flush=True), stop
    )
