"""`cogen run`: the rounds of a real federation."""

from __future__ import annotations

from typing import Annotated

import typer

from cogen.cli.options import FEDERATION, AsJson, Federation, Overwrite, Settings
from cogen.cli.scores import print_scores


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
    print_scores(done, write_report(done.path), as_json)
