"""Flower's programs as forks of one process: requests, exit codes, and programs that start without it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from cogen.errors import FederationError
from cogen.flower.flower_process import programs_folder
from cogen.flower.patches.local import TOKEN_VARIABLE
from cogen.flower.prefork import _exit_code, _rename_process, can_prefork, prefork_command, write_stubs
from cogen.flower.prefork_ray import ReadyActors
from cogen.flower.stubs import answer_call, stub_text
from cogen.flower.superlink import connect, flower_environment, superlink
from cogen.flower.supervisor import _runs_server_app
from cogen.node.channel import listen_at
from cogen.node.fork_server import exit_code_of, fork_for_next
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not can_prefork(), reason="forks are for Linux")


@pytest.fixture
def calls(tmp_path: Path) -> Iterator[socket.socket]:
    """Where the program of the test asks."""
    with listen_at(tmp_path / "flwr.sock") as listener:
        yield listener


def stub_in(home: Path) -> Path:
    """The stub of `flwr` in a private home."""
    write_stubs(home)
    return programs_folder(home) / "flwr"


def answered(calls: socket.socket, flwr: Any) -> threading.Thread:
    """One call taken, in a thread, as its fork lives until it has ended."""
    thread = threading.Thread(target=fork_for_next, args=(calls, partial(answer_call, "flwr", flwr)))
    thread.start()
    return thread


def test_a_call_has_its_arguments_its_output_and_its_exit_code(tmp_path: Path, calls: socket.socket) -> None:
    """Red: a fork that writes where its parent does; an exit code that is lost."""

    def flwr() -> None:
        os.write(1, json.dumps(sys.argv).encode())
        os.write(2, b"a word")
        sys.exit(7)

    program = stub_in(tmp_path)
    thread = answered(calls, flwr)
    done = subprocess.run([program, "list", "a b", "é"], capture_output=True, check=False, timeout=60)
    thread.join()
    assert json.loads(done.stdout) == ["flwr", "list", "a b", "é"]
    assert (done.stderr, done.returncode) == (b"a word", 7)


def test_a_calls_token_comes_from_its_environment(tmp_path: Path, calls: socket.socket) -> None:
    """Where only its own user reads it. Red: a token in the command line, or none."""
    program = stub_in(tmp_path)
    thread = answered(calls, lambda: os.write(1, json.dumps(sys.argv).encode()))
    known = {**os.environ, TOKEN_VARIABLE: "secret"}
    done = subprocess.run([program, "--insecure"], env=known, capture_output=True, check=False, timeout=60)
    thread.join()
    assert json.loads(done.stdout) == ["flwr", "--insecure", "--token", "secret"]


def test_a_call_that_fails_is_a_failure(tmp_path: Path, calls: socket.socket) -> None:
    def flwr() -> None:
        raise ValueError("no such run")

    program = stub_in(tmp_path)
    thread = answered(calls, flwr)
    done = subprocess.run([program], check=False, timeout=60)
    thread.join()
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [(SystemExit(), 0, ""), (SystemExit(4), 4, ""), (SystemExit("one line"), 1, "one line\n"), (OSError(), 1, None)],
)
def test_a_fork_ends_as_python_would(
    error: BaseException, code: int, line: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red: the line with which a program ends is lost, since the fork leaves by os._exit."""

    def program() -> None:
        raise error

    assert exit_code_of(program) == code
    written = capsys.readouterr().err
    assert written == line if line is not None else "OSError" in written


def test_where_nobody_listens_it_is_the_plain_program(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text('#!/bin/sh\necho "plain $1"\nexit 5\n')
    plain.chmod(0o700)
    text = stub_text(tmp_path / "flwr.sock", [1, 2], [str(plain)])
    done = subprocess.run([sys.executable, "-IS", "-c", text, "here"], capture_output=True, check=False, timeout=60)
    assert (done.stdout, done.returncode) == (b"plain here\n", 5)


def test_a_path_too_long_for_a_socket_is_none(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    home.mkdir()
    program = stub_in(home)
    with listen_at(home / "flwr.sock") as listener:
        thread = answered(listener, lambda: os.write(1, b"reached"))
        done = subprocess.run([program], capture_output=True, check=False, timeout=60)
        thread.join()
    assert done.stdout == b"reached"


def test_in_a_simulation_its_programs_are_found_before_flowers_own(tmp_path: Path) -> None:
    """A launcher that says what it sees, and ends."""
    connect(tmp_path)
    folder = programs_folder(tmp_path)
    code = f"import os; open({str(tmp_path / 'path')!r}, 'w').write(os.environ['PATH'])"
    with (
        open(tmp_path / "lock", "w") as lock,
        pytest.raises(FederationError, match="it ended"),
        superlink(tmp_path, tmp_path, lock.fileno(), launcher=[sys.executable, "-c", code]),
    ):
        pass
    found = (tmp_path / "path").read_text().split(os.pathsep)
    assert found[:2] == [str(folder), str(Path(sys.executable).parent)]
    assert str(folder) not in flower_environment(tmp_path)["PATH"]  # a node's home has what the coordinator sends


def test_with_another_flower_the_plain_superlink_takes_its_place(tmp_path: Path) -> None:
    """A `flwr` without these modules, first in the path."""
    (tmp_path / "flwr").mkdir()
    (tmp_path / "flwr" / "__init__.py").touch()
    plain = tmp_path / "plain"
    plain.write_text('#!/bin/sh\necho "plain $@"\nexit 5\n')
    plain.chmod(0o700)
    known = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [*prefork_command(tmp_path, 2, 1), str(plain), "--insecure", "--port", "1"]
    done = subprocess.run(command, env=known, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.returncode) == ("plain --insecure --port 1\n", 5)
    assert "flwr.simulation" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("a slower start: ")


def test_the_supervisor_knows_a_simulation_that_is_a_fork(tmp_path: Path) -> None:
    """Red: by its command line, which is that of SuperLink and of all the others."""
    ready = tmp_path / "ready"
    forks = {}
    for name in ("flwr-simulation", "flower-superlink"):
        ready.unlink(missing_ok=True)
        if not (pid := os.fork()):
            _rename_process(name)
            ready.touch()
            threading.Event().wait(60.0)
            os._exit(0)
        assert wait_until(ready.exists)
        forks[name] = psutil.Process(pid)
    known = {name: _runs_server_app(process) for name, process in forks.items()}
    for process in forks.values():
        process.kill()
        process.wait()
    assert known == {"flwr-simulation": True, "flower-superlink": False}


def ended(code: int) -> int:
    """The id of a fork that ends with that code."""
    if not (pid := os.fork()):
        os._exit(code)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_it_ends_with_superlink_and_with_a_simulation_that_fails() -> None:
    """Red: one that waits for Flower to miss the signs of life of a simulation that was killed."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as alive:
        assert _exit_code(alive.pid, ended(0)) is None
        assert _exit_code(alive.pid, ended(3)) == 3
        assert _exit_code(ended(0), alive.pid) == 1
        assert _exit_code(alive.pid, alive.pid) is None
        alive.kill()


class Kind:
    """Flower's class of actors, as far as it is used."""

    def __init__(self) -> None:
        self.made: list[tuple[dict[str, Any], tuple[Any, ...]]] = []

    def options(self, **resources: Any) -> Kind:
        self.resources = resources
        return self

    def remote(self, *args: Any) -> str:
        self.made.append((self.resources, args))
        return "new"


def test_actors_that_are_made_are_used_before_new_ones() -> None:
    kind = Kind()
    actors = ReadyActors(kind, {"num_cpus": 1}, ["first", "second"])
    pool = [actors.options(num_cpus=1.0, num_gpus=0.0).remote() for _ in range(3)]
    assert pool == ["second", "first", "new"]
    assert kind.made == [({"num_cpus": 1}, ())]
    assert actors.options(num_cpus=1).remote("an argument") == "new"
    assert kind.made[-1] == ({"num_cpus": 1}, ("an argument",))


def test_actors_of_other_resources_are_made_in_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red: those that are made keep the cores that the others wait for."""
    import ray

    killed: list[str] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    kind = Kind()
    actors = ReadyActors(kind, {"num_cpus": 1}, ["first", "second"])
    assert actors.options(num_cpus=2).remote() == "new"
    assert kind.made == [({"num_cpus": 2}, ())]
    assert sorted(killed) == ["first", "second"]
