"""The work of `cogen run`, imported only when it runs: follow, then show as `cogen simulate` does."""

from __future__ import annotations

import signal
from pathlib import Path

from cogen.cli.narrator import Narrator
from cogen.cli.show import print_json
from cogen.deploy import run as deploy
from cogen.deploy.folder import FederationFolder
from cogen.evaluate.matrix import format_table, retained_gain
from cogen.evaluate.run_scores import read_evaluation
from cogen.report import write_report


def run_rounds(
    config: str, folder: Path, overrides: list[str], *, resume: bool, overwrite: bool, as_json: bool
) -> None:
    """Run it, then print the matrix and where everything lies; SIGTERM stops it as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Narrator() as narrator:
        run = deploy.run_rounds(
            config,
            FederationFolder(folder),
            overrides=overrides,
            resume=resume,
            overwrite=overwrite,
            on_event=narrator.on_event,
        )
    page, evaluation = write_report(run.path), read_evaluation(run)
    if as_json:
        matrix = evaluation.model_dump()
        print_json({"run": str(run.path), "retained_gain": retained_gain(evaluation), **matrix})
        return
    print("bits per byte on held-out text (lower is better)\n")
    print(format_table(evaluation))
    print(f"\ncombined adapter: {run.merged}\nreport: {page}")
