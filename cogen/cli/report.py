"""`cogen report`: the results of a run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cogen.cli.options import AsJson
from cogen.console import print_json


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    as_json: AsJson = False,
) -> None:
    """Write a run's report as one HTML page.

    The page is report.html in the run folder and needs no other file.

    Example: cogen report runs/quickstart
    """
    from cogen.report import write_report

    page = write_report(run)
    print_json({"report": str(page)}) if as_json else print(page)
