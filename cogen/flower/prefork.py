"""Runs the Flower programs of a simulation in forks of one process: `python -P -m cogen.flower.prefork HOME CPUS EACH SUPERLINK…`.

SuperLink, SuperExec, `flwr` and the simulation each import the same 1.5 s of Flower, one after the other. Here it is
imported once. The simulation's fork also starts Ray and imports the app before there is a run to simulate. Stubs in
PATH ask this process in place of `flwr` and `flwr-simulation`. Where Flower has no such entry points, this process
becomes the plain SuperLink, and Flower's own programs do the rest.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from cogen.flower.api_socket import ADDRESS, listens
from cogen.flower.flower_process import flower_command, programs_folder
from cogen.flower.patches import apply_or_exit, find_or_log
from cogen.flower.prefork_ray import get_ready
from cogen.flower.stubs import answer_call, take_call, write_stub
from cogen.node.channel import is_same_user, listen_at
from cogen.node.fork_server import fork_for_next

POLL_SECONDS = 0.5
STUBS = ("flwr", "flwr-simulation")
FIRST_ARGUMENT = "--insecure"  # of SuperLink's own
NEEDED = ("api_listens_at_socket", "api_asked_at_socket", "superexec_hides_token")


def can_prefork() -> bool:
    """Whether this is Linux: elsewhere a process that has imported much cannot fork safely."""
    return sys.platform.startswith("linux")


def write_stubs(home: Path) -> None:
    """Put stubs in the place of `flwr` and `flwr-simulation` in a private FLWR_HOME."""
    for name in STUBS:
        write_stub(programs_folder(home) / name, home / f"{name}.sock", flower_command(name), with_output=True)


def prefork_command(home: Path, num_clients: int, cpus_each: int) -> list[str]:
    """The words before SuperLink's command line that start this program with it; none where it cannot fork.

    Args:
        home: a private FLWR_HOME that `connect` has prepared; the stubs are written into it.
        num_clients: how many train at a time.
        cpus_each: cores that Ray has for each of them.
    """
    if not can_prefork():
        return []
    write_stubs(home)
    cpus = (str(num_clients * cpus_each), str(cpus_each))
    return [sys.executable, "-P", "-m", "cogen.flower.prefork", str(home), *cpus]


def main() -> None:
    """Import, fork what a run needs at once, then fork for each call of `flwr`, until SuperLink ends."""
    home, num_cpus, cpus_each, plain = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    arguments = plain[plain.index(FIRST_ARGUMENT) :]
    calls, simulations = (listen_at(home / f"{name}.sock") for name in STUBS)
    (simulation,) = _entries("simulation_program", plain)
    if not (simulation_pid := os.fork()):
        _rename_process("flwr-simulation")
        calls.close()
        sys.exit(_simulate(simulations, simulation, num_cpus, cpus_each))
    simulations.close()
    superlink, superexec, flwr, *_ = _entries("superlink_programs", plain)
    apply_or_exit(*NEEDED)
    superlink_pid = _fork("flower-superlink", superlink, [*arguments, "--isolation", "process"], calls)
    options = [FIRST_ARGUMENT, "--runtime-api-address", ADDRESS, "--parent-pid", str(superlink_pid)]
    _fork("flower-superexec", lambda: _when_listening(home, superexec), options, calls)
    while (code := _exit_code(superlink_pid, simulation_pid)) is None:
        if select.select([calls], [], [], POLL_SECONDS)[0]:
            fork_for_next(calls, partial(answer_call, "flwr", flwr))
    sys.exit(code)


def _entries(name: str, plain: list[str]) -> list[Any]:
    """Flower's entry points; where they are gone, this process becomes the plain SuperLink."""
    found = find_or_log(name)
    if found is None:
        os.execv(plain[0], plain)
    return found


def _rename_process(name: str) -> None:
    """Give this fork the name that lists of processes show; Linux keeps 15 characters."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name[:15])


def _fork(name: str, program: Callable[[], Any], arguments: Sequence[str], calls: socket.socket) -> int:
    """Run a program in a fork, which exits as the program would; returns its process id."""
    if pid := os.fork():
        return pid
    _rename_process(name)
    calls.close()
    sys.argv = [name, *arguments]
    sys.exit(program())


def _when_listening(home: Path, program: Callable[[], Any]) -> Any:
    """Run a program once SuperLink listens; by itself it would retry after ever longer pauses."""
    while not listens(home):
        time.sleep(0.02)
    return program()


def _exit_code(superlink_pid: int, simulation_pid: int) -> int | None:
    """Collect forks that have ended; an exit code if SuperLink was among them, or a simulation that failed.

    Flower notices a failed simulation only when its heartbeat has been missing for a minute or two.
    """
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 1
        if pid == superlink_pid or (pid == simulation_pid and status != 0):
            return max(1, os.waitstatus_to_exitcode(status))
        if pid == 0:
            return None


def _simulate(simulations: socket.socket, simulation: Callable[[], Any], num_cpus: int, cpus_each: int) -> Any:
    """Get the simulation ready, wait for SuperExec's call, and run its `flwr-simulation`."""
    get_ready(num_cpus, cpus_each)
    apply_or_exit("api_asked_at_socket")
    connection, _ = simulations.accept()
    simulations.close()
    if not is_same_user(connection):
        return 1
    take_call("flwr-simulation", connection)
    return simulation()  # the connection stays open until it ends


if __name__ == "__main__":
    main()
