"""The ServerApp: open the run folder, run the rounds that are left, score, finish."""

from __future__ import annotations

import time

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from cogen.config import load_config
from cogen.errors import CogenError
from cogen.federation.shipped import shipped_config, shipped_root
from cogen.runs import RunFolder
from server.rounds import Coordinator

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what is left of the run named in the run config; every error is in `events.jsonl` before it is raised."""
    run = _open(context)
    began = time.monotonic()
    try:
        Coordinator(grid, run).run_all()
    except Exception as error:
        reason = str(error) if isinstance(error, CogenError) else f"{type(error).__name__}: {error}"
        run.append_event("run_failed", reason=reason)
        raise
    run.append_event("run_finished", seconds=time.monotonic() - began)


def _open(context: Context) -> RunFolder:
    """The folder that `cogen simulate` prepared, or a new one when `flwr run .` came here on its own."""
    if prepared := str(context.run_config.get("run", "")):
        return RunFolder(prepared)
    source = shipped_config(str(context.run_config["config"]))
    place = shipped_root() if source.is_relative_to(shipped_root()) else source.parent
    run = RunFolder(place / "runs" / f"{source.stem}-flwr-{context.run_id}")
    run.create(load_config(source).to_toml())
    return run
