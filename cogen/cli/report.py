"""`cogen report`: a run folder as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Write report.html into a run folder: one self-contained page.

    Example: cogen report runs/quickstart
    """
    from cogen.cli.show import print_json
    from cogen.report import write_report

    page = write_report(run)
    print_json({"report": str(page)}) if as_json else print(page)
