"""The work of `cogen watch`, imported only when it runs."""

from __future__ import annotations

import sys
from pathlib import Path

from cogen.errors import RunError
from cogen.report.watch import make_server, open_address

RUNS = Path("runs")


def run_watch(run: Path | None, host: str, port: int | None) -> None:
    """Print the address, then serve the page until Ctrl-C."""
    folder = newest_run() if run is None else run
    place = open_address(host, port)
    print(place.url, flush=True)
    print(f"showing {folder} there; Ctrl-C ends it", file=sys.stderr)
    if place.token:
        print("without encryption: whoever can read this network can read the page", file=sys.stderr)
    make_server(folder, place).run(sockets=[place.listener])


def newest_run() -> Path:
    """The folder in runs/ whose events or settings were written last.

    Raises:
        RunError: there is none.
    """
    written = {path.parent: path.stat().st_mtime for path in sorted(RUNS.glob("*/config.toml"))}
    written |= {path.parent: path.stat().st_mtime for path in sorted(RUNS.glob("*/events.jsonl"))}
    if not written:
        raise RunError(
            "no run to watch",
            expected="a run folder in runs/",
            got="none",
            where=str(RUNS.resolve()),
            fix="Name one: it may be one that is yet to start.",
        )
    return max(written, key=written.__getitem__)
