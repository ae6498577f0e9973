"""Flower's SuperLink in simulation mode, with a private FLWR_HOME; and what every Flower program needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cogen.files import write_file
from cogen.flower.api_socket import ADDRESS, HOST, PORT, wait_ready
from cogen.flower.flower_process import programs_folder, write_programs
from cogen.flower.programs import child_environment, start_supervised, stop_supervised

CONNECTION = "cogen"
SUPERLINK = (sys.executable, "-P", "-m", "cogen.flower.superlink_process")
AT_SOCKET = ("--host", HOST, "--port", PORT)


@dataclass(frozen=True)
class SuperLink:
    """A running SuperLink's supervisor."""

    supervisor: subprocess.Popen[bytes]

    def alive(self) -> bool:
        """Whether it runs."""
        return self.supervisor.poll() is None


def flower_environment(home: Path) -> dict[str, str]:
    """The environment of every Flower program: no telemetry, no installation at run time, a private FLWR_HOME."""
    return {
        **child_environment(os.environ),
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
    inherit: int,
    environment: Mapping[str, str] = MappingProxyType({}),
    launcher: Sequence[str] = (),
) -> Iterator[SuperLink]:
    """Start a SuperLink; at the end of the block, whatever happens in it, stop it and all that it started.

    Args:
        home: prepared by `connect`; where the socket will be.
        environment: further variables for it and for what it starts.
        inherit: descriptor of the run folder's lock, held by the supervisor for as long as it lives.
        launcher: words before SuperLink's command line, of a program that becomes this SuperLink.
    Raises:
        FederationError: the SuperLink does not start.
    """
    program = [*launcher, *SUPERLINK, "--insecure", "--simulation", *AT_SOCKET]
    variables = {**coordinator_environment(home), **environment}
    supervisor = start_supervised(program, logs / "superlink.log", variables, inherit)
    link = SuperLink(supervisor)
    try:
        wait_ready(home, logs, link.alive)
        yield link
    finally:
        stop_supervised(supervisor)


def coordinator_environment(home: Path) -> dict[str, str]:
    """As `flower_environment`, for SuperLink and what it starts: the programs in `home` come first."""
    made = flower_environment(home)
    return {**made, "PATH": f"{programs_folder(home)}{os.pathsep}{made['PATH']}"}


def connect(home: Path, ca: Path | None = None) -> None:
    """Write into the private home how SuperLink is reached, and the programs that do so.

    Args:
        ca: PEM of the authority that signed its certificate; None is a connection without TLS.
    """
    how = "insecure = true" if ca is None else f"root-certificates = {json.dumps(str(ca))}"
    head = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
    write_file(home / "config.toml", f'{head}address = "{ADDRESS}"\n{how}\n'.encode(), private=True)
    write_programs(home)
