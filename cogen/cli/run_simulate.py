"""The work of `cogen simulate`, imported only when it runs: start, show, report."""

from __future__ import annotations

from pathlib import Path

from cogen.cli.narrate import Narrator, show_result
from cogen.federation.simulate import simulate


def run_simulate(
    config: str,
    out: Path | None,
    overrides: list[str],
    *,
    resume: bool,
    overwrite: bool,
    port: int | None,
    as_json: bool,
) -> None:
    """Run it, then print the matrix and where everything lies."""
    with Narrator() as narrator:
        run = simulate(
            config, out=out, overrides=overrides, resume=resume, overwrite=overwrite, port=port, follow=narrator.follow
        )
    show_result(run, as_json=as_json)
