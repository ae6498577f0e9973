"""Flower's programs of a simulation as forks of one process: `python -P -m cogen.flower.prefork FOLDER CPUS EACH SUPERLINK…`.

SuperLink, SuperExec, `flwr` and the simulation each import the same second and a half of Flower, one after the other.
Here that is imported once. The simulation's fork also starts Ray and imports the app before there is a run to simulate;
what SuperExec starts as `flwr-simulation`, and the launcher as `flwr`, asks this process (`cogen.flower.prefork_programs`).
Where Flower has other insides, the plain SuperLink takes this process's place, and plain programs do the rest.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cogen.errors import log_error
from cogen.flower.prefork_ray import get_ready
from cogen.node.channel import is_same_user, listen_at

LOOK_SECONDS = 0.5
LINE_BYTES = 65_536


def main() -> None:
    """Import, fork what a run needs at once, then fork for each call of `flwr`, for as long as SuperLink lives."""
    folder, num_cpus, cpus_each, plain = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    calls, simulations = (listen_at(folder / f"{name}.sock") for name in ("flwr", "flwr-simulation"))
    simulation = _entry("flwr.simulation.app", "flwr_simulation", plain)
    if not (simulated := os.fork()):
        _call_itself("flwr-simulation")
        calls.close()
        sys.exit(_simulate(simulations, simulation, num_cpus, cpus_each))
    simulations.close()
    superexec = _entry("flwr.supercore.cli", "flower_superexec", plain)
    flwr = _entry("flwr.cli.app", "app", plain)
    _entry("flwr.superlink.main", "create_app", plain)  # by itself SuperLink imports it late
    superlink = _entry("flwr.superlink.cli", "flower_superlink", plain)
    host, port = (plain[plain.index(f"--{name}") + 1] for name in ("host", "port"))
    link = _fork("flower-superlink", superlink, [*plain[1:], "--isolation", "process"], calls)
    told = ["--insecure", "--runtime-api-address", f"{host}:{port}", "--parent-pid", str(link)]
    _fork("flower-superexec", lambda: _when_there((host, int(port)), superexec), told, calls)
    while (code := _ended(link, simulated)) is None:
        if select.select([calls], [], [], LOOK_SECONDS)[0]:
            _answer(calls, flwr)
    sys.exit(code)


def _entry(module: str, name: str, plain: list[str]) -> Any:
    """An entry point of Flower's; where it has other ones, the plain SuperLink takes this process's place."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        log_error()
        os.execv(plain[0], plain)


def _call_itself(name: str) -> None:
    """The name by which this fork goes where processes are looked at; as long as Linux has room for."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name[:15])


def _fork(name: str, program: Callable[[], Any], arguments: Sequence[str], calls: socket.socket) -> int:
    """Run a program in a fork, which ends as the program by itself would; returns its process id."""
    if pid := os.fork():
        return pid
    _call_itself(name)
    calls.close()
    sys.argv = [name, *arguments]
    sys.exit(program())


def _when_there(address: tuple[str, int], program: Callable[[], Any]) -> Any:
    """Run a program when somebody listens at `address`; by itself it would try again after ever longer pauses."""
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(address) == 0:
                return program()
        time.sleep(0.02)


def _ended(link: int, simulated: int) -> int | None:
    """Forget forks that have ended; an exit code if SuperLink was among them, or a simulation that failed.

    Flower would notice the latter when its signs of life have been missing for a minute or two.
    """
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 1
        if pid == link or (pid == simulated and status != 0):
            return max(1, os.waitstatus_to_exitcode(status))
        if pid == 0:
            return None


def _answer(calls: socket.socket, flwr: Callable[[], Any]) -> None:
    """One call of `flwr`, in a fork that writes where the caller does; then its exit code to the caller."""
    connection, _ = calls.accept()
    with connection:
        if not is_same_user(connection) or os.fork():
            return
        calls.close()
        code = 1
        try:
            _become("flwr", connection)
            flwr()
            code = 0
        except SystemExit as stopped:
            code = 0 if stopped.code is None else stopped.code if isinstance(stopped.code, int) else 1
        except BaseException:  # noqa: BLE001 - the fork's end, whatever it is
            log_error()
        finally:
            for stream in (sys.stdout, sys.stderr):  # before the answer, after which nobody reads
                with suppress(OSError):
                    stream.flush()
            with suppress(OSError):
                connection.sendall(bytes([code & 0xFF]))
            os._exit(code & 0xFF)


def _become(name: str, connection: socket.socket) -> None:
    """Take over the caller's arguments and where it writes."""
    line, descriptors, _, _ = socket.recv_fds(connection, LINE_BYTES, 2)
    for theirs, mine in zip(descriptors, (1, 2), strict=True):
        os.dup2(theirs, mine)
        os.close(theirs)
    while not line.endswith(b"\n") and (more := connection.recv(LINE_BYTES)):
        line += more
    sys.argv = [name, *(str(a) for a in json.loads(line))]


def _simulate(simulations: socket.socket, simulation: Callable[[], Any], num_cpus: int, cpus_each: int) -> Any:
    """Get the simulation ready, wait for SuperExec's word, and be its `flwr-simulation` from then on."""
    get_ready(num_cpus, cpus_each)
    connection, _ = simulations.accept()
    simulations.close()
    if not is_same_user(connection):
        return 1
    _become("flwr-simulation", connection)
    return simulation()  # the connection lasts as long as this


if __name__ == "__main__":
    main()
