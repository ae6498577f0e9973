"""The work of `cogen run`, imported only when it runs: follow, then show as `cogen simulate` does."""

from __future__ import annotations

import signal
from pathlib import Path

from cogen.cli.narrate import Narrator, show_result
from cogen.federation import deploy
from cogen.federation.folder import FederationFolder


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
            follow=narrator.follow,
        )
    show_result(run, as_json=as_json)
