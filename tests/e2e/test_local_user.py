"""A federation among strangers: in folders with other people's packages, and on a machine with another user, who looks and tries."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from cogen.flower.patches.local import TOKEN_VARIABLE
from cogen.flower.simulated_rounds import ray_environment
from cogen.node.home import NodeHome
from tests.federation_processes import DOMAINS, FederationProcesses, Loopback, config_for, running_federation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]
ROOT = Path(__file__).parent.parent.parent
DECOYS = ("cogen", "clients", "server", "flwr", "torch")
IS_ROOT = os.geteuid() == 0


@dataclass
class Seen:
    """What was to be seen of a federation's processes while a run went on."""

    code: int = -1
    log: str = ""
    looks: int = 0
    arguments: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    listening: set[tuple[str, int]] = field(default_factory=set)
    got: dict[str, list[str]] = field(default_factory=dict)


def write_decoys(folder: Path, names: tuple[str, ...] = DECOYS) -> None:
    """Packages that stop whatever imports them."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('the {name} of the current folder')\n")


@contextmanager
def neighbour() -> Iterator[subprocess.Popen[str] | None]:
    """Another user, where a test may become one."""
    if not IS_ROOT:
        yield None
        return
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-P", "-m", "tests.neighbour"]
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process


def open_paths(process: psutil.Process, place: Path) -> set[str]:
    """Files of data that a process holds open: its own, and what others might share with it."""
    places = (str(place), "/dev/shm/", tempfile.gettempdir())
    found = {path.readlink() for path in Path(f"/proc/{process.pid}/fd").iterdir()}
    of_the_test = (place / "coordinator", *(place / domain for domain in DOMAINS))  # logs of commands
    return {str(path) for path in found if str(path).startswith(places) and path.parent not in of_the_test}


def look(seen: Seen, made: FederationProcesses, stranger: subprocess.Popen[str] | None) -> None:
    """See all processes that the federation's commands have started, and have the stranger try them."""
    files, pids = set[str](), list[int]()
    for process in psutil.Process().children(recursive=True):
        if stranger is not None and process.pid == stranger.pid:
            continue
        with suppress(psutil.Error, OSError):
            words = process.cmdline()
            seen.arguments |= set(words)
            seen.tokens |= {process.environ().get(TOKEN_VARIABLE, "")} - {""}
            kind = next((word for word in words if word.startswith(("cogen.", "flwr", "flower"))), words[0])
            heard = [c.laddr.port for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            seen.listening |= {(kind, port) for port in heard}
            files |= open_paths(process, made.place)
            pids.append(process.pid)
    homes = [NodeHome(made.home(domain)) for domain in DOMAINS]
    sockets = [path for home in homes for path in (home.socket, home.launcher_socket, home.flower / "api.sock")]
    sockets.append(made.coordinator / "federation" / "flwr" / "api.sock")
    private = [path for home in homes for path in (home.path, home.receipts, home.logs, home.key)]
    seen.looks += all(path.exists() for path in (*sockets, *private))
    if stranger is not None and stranger.stdin is not None and stranger.stdout is not None:
        asked = {"pids": pids, "ports": [port for _, port in seen.listening]}
        asked |= {"sockets": [str(path) for path in sockets], "files": sorted({*files, *map(str, private)})}
        print(json.dumps(asked), file=stranger.stdin, flush=True)
        seen.got = json.loads(stranger.stdout.readline())


@pytest.fixture(scope="module")
def seen(tiny_folder: Path) -> Iterator[Seen]:
    """One run of a federation, in folders with decoys; the coordinator's is the parent of a clone."""
    place = Path(tempfile.mkdtemp(prefix="cogen-neighbour-"))
    place.chmod(0o755)  # only the modes of what cogen makes keep others out
    found = Seen()
    try:
        for domain in DOMAINS:
            write_decoys(place / domain)
        write_decoys(place / "coordinator", tuple(name for name in DECOYS if name != "cogen"))
        (place / "coordinator" / "cogen").symlink_to(ROOT)
        config = config_for(tiny_folder, with_data=False, num_rounds=1)
        with neighbour() as stranger, running_federation(place, config, tiny_folder, Loopback()) as made:
            running = made.start(made.coordinator, "run", made.config)
            while running.poll() is None:
                look(found, made, stranger)
                time.sleep(0.1)
            found.code, found.log = running.returncode, made.log()
            if stranger is not None and stranger.stdin is not None:
                stranger.stdin.close()
        yield found
    finally:
        shutil.rmtree(place)


def test_commands_run_what_is_installed_and_not_what_lies_in_their_folder(seen: Seen) -> None:
    """Red: a child that is started with `python -m`, or in the folder of the command."""
    assert seen.code == 0, seen.log


def test_no_argument_of_a_process_is_a_secret(seen: Seen) -> None:
    """The tokens that were handed on are in the environment, of each task. Red: `--token` in a process list."""
    assert seen.looks > 10 and len(seen.tokens) >= len(DOMAINS)
    assert not seen.tokens & seen.arguments
    assert "--token" not in seen.arguments


def test_nothing_listens_but_the_gateway(seen: Seen) -> None:
    """Red: an API of Flower's at a port of loopback, which has no users."""
    assert {kind for kind, _ in seen.listening} == {"cogen.deploy.gateway_process"}


@pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")
def test_another_user_gets_neither_task_nor_token_nor_message(seen: Seen) -> None:
    """It tries ports, sockets, files, and the insides of processes. Red: what the tests above find, and it answers tasks."""
    assert seen.looks > 10
    assert seen.got == {"tokens": [], "got": []}


RAY = """
import json, os, ray
for _ in range(4):  # a busy machine
    try:
        ray.init(num_cpus=1, include_dashboard=False, logging_level="error")
        break
    except Exception:
        ray.shutdown()
context = ray.get_runtime_context()
print(json.dumps([context.gcs_address, ray._private.worker._global_node.get_session_dir_path()]), flush=True)
input()
"""
STRANGER = """
import sys
from ray._raylet import GcsClient
print(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", namespace=b"fun", timeout=5))
"""


def test_a_simulations_ray_obeys_its_own_user_alone() -> None:
    """Red: Ray as it is, which runs what whoever reaches its ports sends, and whose folder in /tmp is open to all."""
    home = Path(tempfile.mkdtemp(prefix="cogen-ray-"))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    known = {**plain, **ray_environment(home)}
    try:
        with subprocess.Popen(
            [sys.executable, "-c", RAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=known
        ) as started:
            assert started.stdout is not None and started.stdin is not None
            address, session = json.loads(started.stdout.readline())
            asks = [sys.executable, "-c", STRANGER, address]
            mine, others = (
                subprocess.run(asks, env=e, capture_output=True, text=True, check=False) for e in (known, plain)
            )
            started.stdin.close()
        assert mine.returncode == 0, mine.stderr
        assert others.returncode != 0 and "InvalidAuthToken" in others.stderr
        assert Path(session).is_relative_to(home) and home.stat().st_mode & 0o777 == 0o700
    finally:
        shutil.rmtree(home, ignore_errors=True)  # Ray's programs may still end
