"""`cogen doctor`: can this machine take part, and what will it cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    source: Annotated[Path, typer.Argument(help="An invite, or a config file.")],
    data: Annotated[
        str | None, typer.Option(help="This domain's corpus; without it only the machine is looked at.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Where this machine has the base: a folder, hub id, or name.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the member's folder would lie.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Look whether this machine can take part in a federation; exit 2 when something stops it.

    Example: cogen doctor clinical.invite --data ./notes
    """
    from cogen.train.memory import tune_allocator

    tune_allocator()
    from cogen.cli.run_doctor import run_doctor

    run_doctor(source, data, base, folder, as_json=as_json)
