"""`cogen revoke`: let a domain in no more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def revoke(
    domain: Annotated[str, typer.Argument(help="A domain that has joined.")],
    folder: Annotated[Path, typer.Option(help="Where the federation is kept.")] = Path("federation"),
) -> None:
    """Revoke a domain's key at once; to let it in again, invite it anew.

    Example: cogen revoke clinical
    """
    from cogen.cli.run_nodes import run_revoke

    run_revoke(domain, folder)
