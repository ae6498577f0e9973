"""`cogen nodes`: who has joined, who is there, what each did last."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def nodes(
    folder: Annotated[Path, typer.Option(help="Where the federation is kept.")] = Path("federation"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show every domain of the federation: invited, joined, connected now, revoked, and what it did last.

    Example: cogen nodes
    """
    from cogen.cli.run_nodes import run_nodes

    run_nodes(folder, as_json=as_json)
