"""Flower's SuperLink in simulation mode, on a free port with a private FLWR_HOME; and what every Flower program needs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cogen.errors import FederationError
from cogen.files import write_file
from cogen.flower.prefork import stubs_of
from cogen.flower.programs import UTF8, start_supervised, stop_supervised

CONNECTION = "cogen"
READY_SECONDS = 60.0


@dataclass(frozen=True)
class SuperLink:
    """A running SuperLink: its port on loopback, and its supervisor."""

    port: int
    supervisor: subprocess.Popen[bytes]

    def alive(self) -> bool:
        """Whether it runs."""
        return self.supervisor.poll() is None


def flower_environment(home: Path) -> dict[str, str]:
    """The environment of every Flower program: no telemetry, no installation at run time, a private FLWR_HOME."""
    return {
        **os.environ,
        **UTF8,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",  # SuperExec polls while the clients train
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_prestart_worker_first_driver": "0",  # Flower's settings would end these workers again
        "RAY_worker_niceness": "0",  # the trainer would inherit the 15 of Ray's workers
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray would hide the GPU from the trainer
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


@contextmanager
def superlink(
    home: Path,
    logs: Path,
    port: int,
    inherit: int,
    environment: Mapping[str, str] = MappingProxyType({}),
    launcher: Sequence[str] = (),
) -> Iterator[SuperLink]:
    """Start a SuperLink; at the end of the block, whatever happens in it, stop it and all that it started.

    Args:
        port: on loopback.
        environment: further variables for it and for what it starts.
        inherit: descriptor of the run folder's lock, held by the supervisor for as long as it lives.
        launcher: words before SuperLink's command line, of a program that becomes this SuperLink.
    Raises:
        FederationError: the SuperLink does not start.
    """
    connect(home, port)
    program = [*launcher, str(Path(sys.executable).with_name("flower-superlink")), "--insecure", "--simulation"]
    program += ["--host", "127.0.0.1", "--port", str(port)]
    variables = {**flower_environment(home), **environment}
    variables["PATH"] = f"{stubs_of(home)}{os.pathsep}{variables['PATH']}"  # no such folder without a prefork
    supervisor = start_supervised(program, logs / "superlink.log", variables, inherit)
    link = SuperLink(port, supervisor)
    try:
        wait_ready(port, logs, link.alive)
        yield link
    finally:
        stop_supervised(supervisor)


def connect(home: Path, port: int, ca: Path | None = None) -> None:
    """Write the SuperLink's address on loopback into the private home, where Flower's own programs read it.

    Args:
        ca: PEM of the authority that signed its certificate; None is a connection without TLS.
    """
    how = "insecure = true" if ca is None else f"root-certificates = {json.dumps(str(ca))}"
    head = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
    write_file(home / "config.toml", f'{head}address = "127.0.0.1:{port}"\n{how}\n'.encode(), private=True)


def free_port(port: int | None) -> int:
    """`port` itself, or a free one for None.

    Raises:
        FederationError: the port is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port or 0))
        except OSError as error:
            raise FederationError(
                "cannot start Flower's SuperLink",
                expected=f"port {port} to be free",
                got=error.strerror or str(error),
                where="127.0.0.1",
                fix="Leave --port out to use a free one.",
            ) from None
        return int(probe.getsockname()[1])


def wait_ready(port: int, logs: Path, alive: Callable[[], bool]) -> None:
    """Wait until the SuperLink listens.

    Raises:
        FederationError: it has ended, or does not listen in time.
    """
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and alive():
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise FederationError(
        "cannot start Flower's SuperLink",
        expected=f"it to listen on port {port}",
        got="no answer" if alive() else "it ended",
        where=str(logs / "superlink.log"),
        fix="See its log.",
    )
