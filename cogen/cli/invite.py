"""`cogen invite`: a file that lets one domain in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def invite(
    domain: Annotated[str, typer.Argument(help="A domain of the federation's config.")],
    days: Annotated[int, typer.Option(min=1, max=365, help="How long it is open.")] = 7,
    folder: Annotated[Path, typer.Option(help="Where the federation is kept.")] = Path("federation"),
) -> None:
    """Print an invite for one domain: used once, open for some days; an earlier open one becomes void.

    Example: cogen invite clinical > clinical.invite
    """
    from cogen.cli.run_invite import run_invite

    run_invite(domain, days, folder)
