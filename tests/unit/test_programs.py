"""Supervised programs: started again when they die, ended with the process that started them."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from cogen.deploy.limits import Buckets
from cogen.flower import programs
from cogen.flower.programs import (
    RestartedProgram,
    bound_log,
    child_environment,
    request_stop,
    start_supervised,
    stop_supervised,
)
from tests.waiting import wait_until


@pytest.fixture
def kept(tmp_path: Path) -> RestartedProgram:
    """Writes its pid, then sleeps."""
    code = f"import os, time; open({str(tmp_path / 'pids')!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(600)"
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    return RestartedProgram(
        "it", [sys.executable, "-c", code], tmp_path / "log", os.environ, lock, lambda line: None, pause_seconds=0.2
    )


def pids(tmp_path: Path, number: int, kept: RestartedProgram) -> list[int]:
    until = time.monotonic() + 30.0
    while time.monotonic() < until:
        kept.check()
        lines = (tmp_path / "pids").read_text().split() if (tmp_path / "pids").is_file() else []
        if len(lines) >= number:
            return [int(line) for line in lines]
        time.sleep(0.05)
    raise AssertionError("it was not started")


def test_a_program_ends_with_the_one_it_belongs_to(kept: RestartedProgram, tmp_path: Path) -> None:
    """And is there again soon after it. Red: a SuperExec that goes on with a SuperLink's old tasks, or none at all."""
    other, said = tmp_path / "other", list[str]()
    code = f"import os, time; open({str(other)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(600)"
    argv = [sys.executable, "-c", code]
    follower = RestartedProgram("its part", argv, tmp_path / "log", os.environ, kept.inherit, said.append, follows=kept)
    for program in (kept, follower):
        program.start()
    try:
        first = pids(tmp_path, 1, kept)[-1]
        assert wait_until(lambda: other.is_file() and bool(other.read_text()), 30.0)
        part = int(other.read_text())
        psutil.Process(first).kill()

        def is_started(times: int) -> bool:
            for program in (kept, follower):
                program.check()
            return len(other.read_text().split()) == times

        assert wait_until(lambda: is_started(2), 30.0)
        assert not psutil.pid_exists(part) and kept.alive() and follower.alive()
        assert (kept.num_deaths, follower.num_deaths) == (1, 0)
        psutil.Process(int(other.read_text().split()[1])).kill()
        assert wait_until(lambda: is_started(3), 30.0)
        assert (kept.num_deaths, follower.num_deaths) == (1, 1) and "its part started again" in said
    finally:
        programs.stop_all([kept, follower])


def test_started_again_when_it_dies_after_longer_and_longer_pauses(kept: RestartedProgram, tmp_path: Path) -> None:
    said: list[str] = []
    kept.say = said.append
    kept.start()
    for number in (1, 2, 3):
        found = pids(tmp_path, number, kept)
        assert len(found) == number
        psutil.Process(found[-1]).kill()
    last = pids(tmp_path, 4, kept)[-1]
    assert kept.alive()
    assert kept.num_deaths == 3
    assert [line.split(";")[1].strip() for line in said if "ended" in line] == [
        "again in 0.2 s",
        "again in 0.4 s",
        "again in 0.8 s",
    ]
    assert said.count("it started again") == 3
    assert kept.supervisor is not None
    request_stop(kept.supervisor)
    stop_supervised(kept.supervisor)
    assert not psutil.pid_exists(last)
    assert not kept.alive()


def test_a_server_app_does_not_outlive_what_is_around_it(tmp_path: Path) -> None:
    """Red: all are ended together, and it takes the end of its clients' programs for a failure of theirs."""
    app, blamed = tmp_path / "flwr-serverapp", tmp_path / "blamed"
    app.write_text(
        "import psutil, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(tmp_path / 'ready')!r}, 'w').close()\n"
        "client = psutil.Process(int(sys.argv[1]))\n"
        "while client.is_running() and client.status() != psutil.STATUS_ZOMBIE:\n"
        "    time.sleep(0.01)\n"
        f"open({str(blamed)!r}, 'w').close()\n"
    )
    code = (
        "import subprocess, sys, time\n"
        "client = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"subprocess.Popen([sys.executable, {str(app)!r}, str(client.pid)])\n"
        "time.sleep(600)\n"
    )
    supervisor = start_supervised([sys.executable, "-c", code], tmp_path / "log", os.environ)
    assert wait_until((tmp_path / "ready").is_file)
    stop_supervised(supervisor)
    assert not blamed.exists()


def test_a_bucket_gives_so_many_at_once_and_so_many_a_minute() -> None:
    now = [0.0]
    bucket = Buckets(3.0, lambda: now[0])
    assert [bucket.take("a") for _ in range(5)] == [True, True, True, False, False]
    assert bucket.take("b")
    now[0] = 19.0  # three a minute are one in twenty seconds
    assert not bucket.take("a")
    now[0] = 21.0
    assert bucket.take("a")
    assert not bucket.take("a")
    now[0] = 1000.0
    assert [bucket.take("a") for _ in range(4)] == [True, True, True, False]


def test_a_log_does_not_grow_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red: a log that is renamed, since whoever writes it holds the file open and would never see the new one."""
    monkeypatch.setattr(programs, "LOG_BYTES", 10)
    log = tmp_path / "log"
    with open(log, "ab", buffering=0) as held:  # as a kept program holds it
        held.write(b"0123456789")
        bound_log(log)
        assert log.read_bytes() == b"0123456789"
        held.write(b"!")
        bound_log(log)
        held.write(b"on")
    assert log.read_bytes() == b"on" and (tmp_path / "log.1").read_bytes() == b"0123456789!"
    assert (tmp_path / "log.1").stat().st_mode & 0o777 == 0o600
    bound_log(tmp_path / "none")


def test_whoever_is_kept_has_its_log_bounded(kept: RestartedProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    bounded: list[Path] = []
    monkeypatch.setattr(programs, "bound_log", bounded.append)
    kept.check()
    assert bounded == [kept.log]


def test_a_program_imports_nothing_of_the_folder_that_a_command_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with a package `cogen` and a module `psutil` of somebody else. Red: the supervisor runs them."""
    here, log, said = tmp_path / "here", tmp_path / "logs" / "log", tmp_path / "logs" / "said"
    (here / "cogen").mkdir(parents=True)
    for decoy in (here / "cogen" / "__init__.py", here / "psutil.py"):
        decoy.write_text("raise SystemExit('a decoy')\n")
    monkeypatch.chdir(here)
    monkeypatch.setenv("COGEN_CACHE", "cache")
    code = "import json, os, sys; json.dump([os.getcwd(), os.environ['COGEN_CACHE'], sys.path], open('said', 'w'))"
    supervisor = start_supervised([sys.executable, "-c", code], log, os.environ)
    assert supervisor.wait(60.0) == 0, log.read_text()
    folder, cache, path = json.loads(said.read_text())
    assert (folder, cache) == (str(log.parent), str(here / "cache"))
    assert not {"", ".", str(here), str(log.parent)} & set(path)


def test_a_path_to_python_modules_means_the_same_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red: a clone that is found by `PYTHONPATH=.`; an empty entry, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    made = child_environment({"PYTHONPATH": os.pathsep.join(["lib", "", "/opt"])})
    assert made["PYTHONPATH"] == os.pathsep.join([str(tmp_path / "lib"), "/opt"])
