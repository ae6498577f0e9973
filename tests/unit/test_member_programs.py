"""Programs of a member that are kept running: real processes under real supervisors."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil

from cogen.flower.node_programs import running
from cogen.flower.programs import FIRST_PAUSE_SECONDS, RestartedProgram

SCRIPT = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n'); time.sleep(600)"


def program_of(folder: Path, *argv: str) -> RestartedProgram:
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
    return RestartedProgram("it", [sys.executable, "-c", *argv], folder / "log", os.environ, lock, lambda text: None)


def wait_for(path: Path, count: int, program: RestartedProgram) -> list[int]:
    """Pids that have been written, once there are so many; the program is tended meanwhile."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        program.check()
        pids = [int(line) for line in path.read_text().split()] if path.is_file() else []
        if len(pids) >= count:
            return pids
        time.sleep(0.05)
    raise AssertionError(f"fewer than {count} starts")


def test_a_program_that_dies_is_started_again_and_ends_with_the_block(tmp_path: Path) -> None:
    """Red: no restart; a restart without a pause; a program that outlives the block."""
    pids = tmp_path / "pids"
    program = program_of(tmp_path, SCRIPT, str(pids))
    with running([program]):
        (first,) = wait_for(pids, 1, program)
        os.kill(first, signal.SIGKILL)
        killed = time.monotonic()
        _, second = wait_for(pids, 2, program)
        assert time.monotonic() - killed >= FIRST_PAUSE_SECONDS
        assert psutil.pid_exists(second)
        assert not psutil.pid_exists(first)
    until = time.monotonic() + 25
    while psutil.pid_exists(second) and time.monotonic() < until:  # a busy machine reaps it late
        time.sleep(0.1)
    assert not psutil.pid_exists(second)
