"""The rounds of one simulated run in Flower: start the programs, submit the app, follow the run, stop the programs."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cogen.config import RunConfig
from cogen.evaluate.baselines import OnEvent
from cogen.files import write_file
from cogen.flower.prefork import prefork_command
from cogen.flower.programs import start_supervised, stop_supervised
from cogen.flower.run_events import Watcher, follow_run
from cogen.flower.superlink import connect, superlink
from cogen.flower.superlink_client import SuperLinkClient
from cogen.node.prefork import can_fork, prefork_argv
from cogen.node.resident import PREFORKED
from cogen.report.track import Tracking
from cogen.runs import RunFolder
from cogen.shipped_files import shipped_app

TOKEN_BYTES = 32
PLACE_BYTES = 18  # of the folder of temporary files


def simulate_rounds(run: RunFolder, settings: RunConfig, handle: int, show: OnEvent) -> None:
    """Run the rounds that are left in Flower.

    Args:
        handle: descriptor of the run folder's lock, held by the programs for as long as they live.
        show: called with each new event and training step.
    Raises:
        FederationError: Flower did not start, or the run failed and can be resumed.
    """
    seen = Watcher(run)
    seen.skip()
    show({"event": "starting"})
    with Tracking(settings, run.path, run.path.name) as tracking:

        def track_and_show(event: dict[str, Any]) -> None:
            tracking.on_event(event)
            show(event)

        with (
            _private_home() as home,
            _trainers(settings, home, run.logs, handle) as environment,
            superlink(
                home, run.logs, handle, environment | ray_environment(home), prefork_command(home, *_parallel(settings))
            ) as link,
        ):
            client = SuperLinkClient(home, run.logs)
            with shipped_app() as app:
                run_id = client.submit(app, str(run.path), _simulation_settings(settings))
            follow_run(seen, track_and_show, link.alive, lambda: client.status(run_id))


@contextmanager
def _trainers(settings: RunConfig, home: Path, logs: Path, handle: int) -> Iterator[dict[str, str]]:
    """A preforked trainer, which loads while Flower starts; yields the environment by which clients find it."""
    if not can_fork():
        yield {}
        return
    path = home / "trainers.sock"
    setting = os.environ.get("OMP_NUM_THREADS", "")  # Ray does not change it either
    threads = int(setting) if setting.isdecimal() and int(setting) else _parallel(settings)[1]
    base, kernels = settings.base, settings.train.cpu_kernels
    program = prefork_argv(path, threads, base.name, base.precision, kernels)
    supervisor = start_supervised(program, logs / "trainer.log", os.environ, handle)
    try:
        yield {PREFORKED: str(path)}
    finally:
        stop_supervised(supervisor)


def _parallel(settings: RunConfig) -> tuple[int, int]:
    """How many clients train at a time, and how many cores each of them has."""
    parallel = settings.parallel_clients
    return parallel, max(1, (os.cpu_count() or 1) // parallel)


def _simulation_settings(settings: RunConfig) -> str:
    """Flower's settings: how many clients there are, and Ray's cores for each, which is also its number of threads."""
    parallel, each = _parallel(settings)
    nodes = f"num-supernodes={len(settings.domains)}"
    return f"{nodes} client-resources-num-cpus={each} init-args-num-cpus={each * parallel}"


def ray_environment(home: Path) -> dict[str, str]:
    """Variables with which Ray obeys this user alone: a token at its ports, and its files in the private home.

    By itself Ray runs the code of whoever reaches its ports on loopback, and its folder in /tmp is open to all.
    """
    token = home / "ray.token"
    write_file(token, secrets.token_hex(TOKEN_BYTES).encode(), private=True)
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_TMPDIR": str(home)}


@contextmanager
def _private_home() -> Iterator[Path]:
    """A folder for Flower and Ray; Ray's sockets are in it, whose paths may have 107 bytes."""
    place = tempfile.gettempdir()
    home = Path(tempfile.mkdtemp(prefix="cogen-flwr-", dir=place if len(os.fsencode(place)) <= PLACE_BYTES else "/tmp"))
    try:
        connect(home)
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)
