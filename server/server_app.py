"""The Flower ServerApp: open the run folder, run the rounds that are left, score the models."""

from __future__ import annotations

import os
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from cogen.config import load_config
from cogen.deploy.members import read_members
from cogen.errors import CogenError
from cogen.flower.patches import apply
from cogen.runs import RunFolder
from cogen.shipped_files import shipped_config, shipped_root
from server.relay import RelayCoordinator
from server.rounds import Coordinator

FEDERATION = "COGEN_FEDERATION"  # the coordinator's folder, in the environment of a deployment

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what is left of the run that the run config names. Every error is written to `events.jsonl` before it is raised."""
    folder = deployment(str(context.run_config.get("run", "")))
    run = _open(context, folder)
    began = time.monotonic()
    try:
        apply("grid_pull_checked")
        kind = RelayCoordinator if load_config(run.config).federation.schedule == "relay" else Coordinator
        kind(grid, run, None if folder is None else lambda: _members(folder)).run_all()
    except Exception as error:
        reason = str(error) if isinstance(error, CogenError) else f"{type(error).__name__}: {error}"
        run.append_event("run_failed", reason=reason)
        raise
    run.append_event("run_finished", seconds=time.monotonic() - began)


def deployment(name: str) -> Path | None:
    """The coordinator's folder, if there is one and the run has a bare name; None in a simulation."""
    folder = os.environ.get(FEDERATION)
    is_bare = bool(name) and Path(name).name == name and not name.startswith(".")
    return Path(folder) if folder and is_bare else None


def _members(folder: Path) -> dict[int, str]:
    """The domain of each authenticated Flower node id."""
    return {member.node_id: domain for domain, member in read_members(folder).items()}


def _open(context: Context, federation: Path | None) -> RunFolder:
    """The run folder that was prepared, or a new one for a plain `flwr run .`."""
    if prepared := str(context.run_config.get("run", "")):
        return RunFolder(prepared if federation is None else federation / "runs" / prepared)
    source = shipped_config(str(context.run_config["config"]))
    place = shipped_root() if source.is_relative_to(shipped_root()) else source.parent
    run = RunFolder(place / "runs" / f"{source.stem}-flwr-{context.run_id}")
    run.create(load_config(source).to_toml())
    return run
