"""`cogen run`: the rounds of a real federation."""

from __future__ import annotations

from typing import Annotated

import typer

from cogen.cli.options import FEDERATION, AsJson, Federation, Overwrite, Settings
from cogen.console import print_json


def run(
    config: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped config.")],
    settings: Settings = [],  # noqa: B006
    resume: Annotated[bool, typer.Option("--resume", help="Continue after the last complete round.")] = False,
    overwrite: Overwrite = False,
    folder: Federation = FEDERATION,
    as_json: AsJson = False,
) -> None:
    """Run the rounds of a federation that is being served.

    The domains that have joined train, and the server combines. SIGTERM stops it as Ctrl-C does.

    Example: cogen run federation.toml
    """
    import signal

    from cogen.cli.narrator import Narrator
    from cogen.deploy import run as deploy
    from cogen.deploy.folder import FederationFolder
    from cogen.evaluate.matrix import format_table, retained_gain
    from cogen.evaluate.run_scores import read_evaluation
    from cogen.report import write_report

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Narrator() as narrator:
        done = deploy.run_rounds(
            config,
            FederationFolder(folder),
            overrides=settings,
            resume=resume,
            overwrite=overwrite,
            on_event=narrator.on_event,
        )
    page, evaluation = write_report(done.path), read_evaluation(done)
    if as_json:
        matrix = evaluation.model_dump()
        print_json({"run": str(done.path), "retained_gain": retained_gain(evaluation), **matrix})
        return
    print("bits per byte on held-out text (lower is better)\n")
    print(format_table(evaluation))
    print(f"\ncombined adapter: {done.merged}\nreport: {page}")
