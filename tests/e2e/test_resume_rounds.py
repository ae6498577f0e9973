"""A coordinator killed before each of its writes: the resumed run ends with the same files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from cogen.config import load_config
from cogen.runs import RunFolder, read_lines
from server.server_app import app as server_app
from tests.in_process_grid import InProcessGrid

SMALL = (
    "train.tokens_per_round=128",
    "evaluate.round_heldout_tokens=0",
    "evaluate.max_heldout_tokens=64",
)
SCHEDULES = {"parallel": "federation.server_optimizer=nesterov", "relay": "federation.schedule=relay"}


def serve(run: RunFolder) -> None:
    server_app(InProcessGrid(3), Context(1, 0, {}, RecordDict(), {"run": str(run.path), "config": ""}))


def results(run: RunFolder) -> dict[str, bytes]:
    parts = [p for part in ("rounds", "experts", "merged") for p in (run.path / part).rglob("*") if p.is_file()]
    return {str(p.relative_to(run.path)): p.read_bytes() for p in [*parts, run.evaluation]}


def stage(folder: Path) -> tuple[str, ...]:
    """What a killed process has left, but for what it tells and what its clients keep."""
    files = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    named = [f.partition(".building")[0] + "~" + f.rpartition("/")[2] if ".building" in f else f for f in files]
    return tuple(sorted(f for f in named if not f.startswith(("nodes", "logs"))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_rounds", "keep", "schedule"),
    [(1, None, "parallel"), (2, None, "parallel"), (3, 1, "parallel"), (2, None, "relay")],
)
def test_resumed_from_any_moment_it_ends_the_same(
    config_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_rounds: int,
    keep: int | None,
    schedule: str,
) -> None:
    """The folder is copied before each rename and each event: that is what SIGKILL would leave there.

    Red: round 0 is taken for complete when its folder is begun. Red: experts are only written while their round is
    (a kill between the two would leave the run without them).
    """
    rules = [
        *SMALL,
        SCHEDULES[schedule],
        f"federation.num_rounds={num_rounds}",
        *([f"federation.keep_rounds={keep}"] if keep else []),
    ]
    run = RunFolder(tmp_path / "whole")
    run.create(load_config(config_file, rules).to_toml())
    stages: dict[tuple[str, ...], Path] = {}

    def copy() -> None:
        here = stage(run.path)
        if here not in stages:
            stages[here] = tmp_path / f"cut-{len(stages)}"
            shutil.copytree(run.path, stages[here])

    def before(module: Any, name: str) -> None:
        original = getattr(module, name)

        def hooked(*args: Any, **options: Any) -> Any:
            if any(str(run.path) in str(a) for a in args) or module is RunFolder:
                copy()
            return original(*args, **options)

        monkeypatch.setattr(module, name, hooked)

    before(os, "replace")
    before(RunFolder, "append_event")
    before(shutil, "rmtree")
    serve(run)
    monkeypatch.undo()
    wanted = results(run)
    whole = {"clients", "global", "round.json", *(["server.safetensors"] if schedule == "parallel" else [])}
    for number in range(1, num_rounds + 1):
        is_kept = keep is None or number > num_rounds - keep
        spared = ["global"] if number == 1 else []  # it may be the best one
        assert {path.name for path in run.round(number).iterdir()} == (whole if is_kept else {"round.json", *spared})
    assert len(stages) > 10 and len(wanted) > 10
    for path in stages.values():
        cut = RunFolder(path)
        serve(cut)
        assert results(cut) == wanted, path.name
        assert [e["event"] for e in read_lines(cut.events_path)][-1] == "run_finished"
