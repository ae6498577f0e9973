"""`cogen simulate` with Flower's own programs: interrupted, killed, resumed, and no process left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from flwr.app import Context, RecordDict

from cogen.config import load_config
from cogen.node.prefork import can_fork
from cogen.report.model_card import MODEL_CARD
from cogen.runs import RunFolder, read_lines
from server.server_app import app as server_app
from tests.forked_program import ForkedProgram
from tests.in_process_grid import InProcessGrid

PATIENCE_SECONDS = 600.0


def launch(config: Path, out: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cogen.cli.app", "simulate", str(config), "--out", str(out), *args]
    return ForkedProgram(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(run: RunFolder, wanted: dict[str, object], process: subprocess.Popen[str]) -> None:
    """Until an event with all of `wanted` is in the run's events."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        if any(wanted.items() <= event.items() for event in read_lines(run.events_path)):
            return
        if process.poll() is not None:
            pytest.fail(f"ended early: {process.communicate()}")
        time.sleep(0.02)
    pytest.fail(f"no {wanted} in {PATIENCE_SECONDS} s")


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all end within the time that the supervisor takes."""
    return not psutil.wait_procs(processes, timeout=25.0)[1]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes of a test; what is still there at its end is killed."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def without_flower(config: Path, folder: Path) -> RunFolder:
    """The same run in this process."""
    whole = RunFolder(folder)
    whole.create(load_config(config).to_toml())
    server_app(InProcessGrid(3), Context(1, 0, {}, RecordDict(), {"run": str(whole.path), "config": ""}))
    return whole


def require_equal(run: RunFolder, whole: RunFolder) -> None:
    """Every file of the rounds, the combined model and the scores."""
    for part in ("rounds", "merged"):
        found = [p for p in (run.path / part).rglob("*") if p.is_file() and p.name != MODEL_CARD]
        files = {p.relative_to(run.path): p for p in found}
        assert files
        for name, path in files.items():
            assert path.read_bytes() == (whole.path / name).read_bytes(), name
    assert run.evaluation.read_bytes() == whole.evaluation.read_bytes()


def test_a_simulation_by_flower_is_what_its_parts_give(
    config_file: Path, tmp_path: Path, started: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Flower, Ray and two trainers; the other run has neither, and one client after the other."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = RunFolder(tmp_path / "run")
    process = launch(config_file, run.path, "--set", "federation.parallel_clients=2")
    started.append(process)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, err
    assert "combined" in out and "round 2/2 · clients 3/3" in err
    assert (run.path / "report.html").is_file()
    require_equal(run, without_flower(config_file, tmp_path / "whole"))


@pytest.mark.slow
def test_interrupted_killed_and_resumed_equals_uninterrupted(
    config_file: Path,
    tmp_path: Path,
    started: list[subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C in round 1, SIGKILL in the middle of round 2, then to the end; every file of the rounds is equal.

    Two clients train at a time, each in a trainer with one thread of its own; the other run has one after the other.
    Three rounds of some seconds: were the kill late on a busy machine, there would still be a round to do.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    text = config_file.read_text().replace("tokens_per_round = 512", "tokens_per_round = 2048")
    config_file.write_text(text.replace("num_rounds = 2", "num_rounds = 3"))
    run = RunFolder(tmp_path / "cut")
    first = launch(config_file, run.path, "--set", "federation.parallel_clients=2")
    started.append(first)
    wait_for(run, {"event": "round_started", "round": 1}, first)
    relatives = family(first)
    assert len(relatives) > 3
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert first.returncode == 130
    assert gone(relatives)

    second = launch(config_file, run.path, "--resume")
    started.append(second)
    wait_for(run, {"event": "round_started", "round": 2}, second)
    relatives = family(second)
    preforked = [
        p for p in relatives if "cogen.node.prefork" in p.cmdline() and "cogen.flower.supervisor" not in p.cmdline()
    ]
    assert len(preforked) == 1 + 2 or not can_fork()
    wait_for(run, {"event": "client_replied", "round": 2}, second)
    second.kill()
    second.communicate(timeout=60)
    assert gone(relatives)
    assert not run.round(3).exists()

    third = launch(config_file, run.path, "--resume")
    started.append(third)
    out, err = third.communicate(timeout=PATIENCE_SECONDS)
    assert third.returncode == 0, err
    assert "combined" in out
    assert "round 3/3 · clients 3/3" in err
    assert all(f"{d.name} · a round takes " in err for d in load_config(config_file).domains)
    assert (run.path / "report.html").is_file()

    require_equal(run, without_flower(config_file, tmp_path / "whole"))
