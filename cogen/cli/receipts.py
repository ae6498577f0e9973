"""`cogen receipts`: what has left a domain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def receipts(
    domain: Annotated[
        str | None, typer.Argument(help="A domain that joined from here; not needed for one alone.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="The member's folder, if --folder named one to join.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object, with every array, and each message's sha256.")
    ] = False,
) -> None:
    """Print what left this domain: every message, its arrays, bytes and numbers.

    Example: cogen receipts clinical
    """
    from cogen.cli.run_receipts import run_receipts

    run_receipts(domain, folder, as_json=as_json)
