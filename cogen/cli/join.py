"""`cogen join`: a domain's side of a real federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def join(
    invite: Annotated[Path | None, typer.Argument(help="The coordinator's invite; not needed once joined.")] = None,
    data: Annotated[str | None, typer.Option(help="This domain's corpus; it stays here.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="This member's folder; the user's data folder without it.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Where this machine has the base: a folder, hub id, or name.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads that training may use.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what a round would send; send nothing.")] = False,
) -> None:
    """Join a federation with an invite and take part until stopped; the corpus and the key stay here.

    Example: cogen join clinical.invite --data ./notes
    """
    from cogen.cli.run_join import run_join

    run_join(invite, data, folder, base, threads, dry_run=dry_run)
