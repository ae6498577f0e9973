"""A coordinator and three domains on one machine, started as users start them.

Each command is a process in its own folder. None of them finds Ray, which only a simulation needs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import psutil

from cogen.node.home import NodeHome
from cogen.runs import RunFolder
from tests.conftest import SEEDS
from tests.member import AS_CONFIGURED, TINY_ROUNDS
from tests.ports import free_port
from tests.waiting import wait_until

DOMAINS = ("clinical", "grid", "materials")
SETTINGS = (
    "[train]\ntokens_per_round = 512\nsequence_length = 64\nbatch_size = 2\nlearning_rate = 0.01\nrank = 4\n"
    '[federation]\nrobust = "clip"\nnum_rounds = 2\nmin_valid_clients = 3\nround_deadline_seconds = 90\nconnect_wait_seconds = 90\n'
    "[evaluate]\nheldout_frac = 0.15\nmax_heldout_tokens = 512\nround_heldout_tokens = 128\n"
)
PATIENCE_SECONDS = 600.0
COGEN = (
    sys.executable,
    "-P",
    "-m",
    "cogen.cli.app",
)  # -P: as the installed program, which imports nothing of its folder
WITHOUT_RAY = Path(__file__).parent / "without_ray"
COMMAND_WORDS = {  # kind of process: words that its command line contains
    "superlink": "cogen.flower.superlink_process",
    "gateway": "gateway_process",
    "superexec": "cogen.flower.superexec_process",
    "server app": "flwr-serverapp",
    "supernode": "cogen.flower.supernode_process",
    "trainer": "cogen.node.service",
    "launcher": "cogen.flower.clientapp_process",
}


def config_for(base: Path, *, with_data: bool, **federation: object) -> str:
    """Settings for two rounds of all three domains; `federation` overrides keys of that table."""
    data = {d: f'data = "{SEEDS / d}.jsonl"\n' if with_data else "" for d in DOMAINS}
    domains = "".join(f'[[domains]]\nname = "{d}"\n{text}' for d, text in data.items())
    lines = SETTINGS.splitlines()
    for key, value in federation.items():
        lines = [line for line in lines if line.split(" =")[0] != key]
        lines.insert(lines.index("[federation]") + 1, f"{key} = {json.dumps(value)}")
    return f'[base]\nname = "{base}"\nprecision = "float32"\n{domains}' + "\n".join(lines) + "\n"


def weights(run: RunFolder) -> dict[str, bytes]:
    """The weight files of the merged adapter and of every round's global adapter."""
    paths = sorted([run.merged, *(run.round(n) / "global" for n in (0, 1, 2))])
    return {str(p.relative_to(run.path)): (p / "adapter_model.safetensors").read_bytes() for p in paths}


def environment_without_ray() -> dict[str, str]:
    """For processes that must work where Ray is not installed; another `sitecustomize` of PYTHONPATH goes before."""
    paths = (*filter(None, [os.environ.get("PYTHONPATH")]), str(WITHOUT_RAY))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


class NetworkLink(Protocol):
    """How the domains reach the coordinator: its address, and the command prefix that runs a program in a participant's network."""

    address: str
    bind: str

    def inside(self, name: str) -> list[str]: ...


class Loopback:
    """All participants on localhost."""

    bind = "127.0.0.1"

    def __init__(self) -> None:
        self.address = f"localhost:{free_port()}"

    def inside(self, name: str) -> list[str]:
        return []


class FederationProcesses:
    """The folders and processes of a coordinator and its domains."""

    def __init__(self, place: Path, config: str, base: Path, line: NetworkLink) -> None:
        self.place, self.base, self.line = place, base, line
        self.coordinator = place / "coordinator"
        self.coordinator.mkdir(parents=True, exist_ok=True)
        self.configure("care", config)
        self.members: dict[str, subprocess.Popen[bytes]] = {}

    def configure(self, name: str, config: str) -> None:
        """Write the settings of the next run, which gets this name."""
        self.config = self.coordinator / f"{name}.toml"
        self.config.write_text(config)
        self.run = RunFolder(self.coordinator / "federation" / "runs" / name)

    def start(self, folder: Path, *args: object) -> subprocess.Popen[bytes]:
        """Start a command of cogen; its output goes to `<command>.log` in its folder."""
        with open(folder / f"{args[0]}.log", "ab") as log:
            command = [*self.line.inside(folder.name), *COGEN, *map(str, args)]
            environment = {**environment_without_ray(), "OMP_NUM_THREADS": "1"}
            return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)

    def output(self, *args: object) -> str:
        """Run a command at the coordinator; its stdout."""
        command = [*self.line.inside("coordinator"), *COGEN, *map(str, args)]
        options: dict[str, Any] = {"cwd": self.coordinator, "env": environment_without_ray(), "timeout": 300}
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def home(self, domain: str) -> Path:
        return self.place / domain / "home"

    def join(self, domain: str) -> None:
        """Invite a domain and start its `cogen join`."""
        folder, home = self.place / domain, NodeHome(self.home(domain))
        folder.mkdir(exist_ok=True)
        home.make()
        home.policy.write_text(TINY_ROUNDS)
        home.settings.write_text(AS_CONFIGURED)
        self.output("invite", domain, "--out", folder / "its.invite")
        data = ("--data", SEEDS / f"{domain}.jsonl", "--base", self.base, "--folder", self.home(domain))
        self.members[domain] = self.start(folder, "join", "its.invite", *data)

    def rounds(self, *args: str, patience_seconds: float = PATIENCE_SECONDS) -> int:
        """Run `cogen run` until it ends; its exit code."""
        return self.start(self.coordinator, "run", self.config, *args).wait(patience_seconds)

    def log(self, domain: str | None = None, command: str = "run") -> str:
        folder = self.coordinator if domain is None else self.place / domain
        return (folder / f"{command}.log").read_text()

    def processes(self, kind: str) -> list[psutil.Process]:
        """All processes of a kind that were started from here."""
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if COMMAND_WORDS[kind] in line and "cogen.flower.supervisor" not in line:
                found.append(process)
        return found


@contextmanager
def running_federation(
    place: Path, config: str, base: Path, line: NetworkLink | None = None, joining: Sequence[str] = DOMAINS
) -> Iterator[FederationProcesses]:
    """A coordinator that serves and domains that have joined it over `line`; all end with the block."""
    made = FederationProcesses(place, config, base, line or Loopback())
    address = ("--public-address", made.line.address, "--bind", made.line.bind)
    serving = made.start(made.coordinator, "serve", made.config, *address)
    try:
        listening = (made.coordinator / "federation" / "serve.json").is_file
        assert wait_until(lambda: listening() or serving.poll() is not None, PATIENCE_SECONDS)
        for domain in joining:
            made.join(domain)
        assert wait_until(lambda: all("connected to" in made.log(d, "join") for d in joining), PATIENCE_SECONDS)
        assert wait_until(lambda: made.output("nodes").count(" connected ") == len(joining), PATIENCE_SECONDS), (
            made.output("nodes")
        )
        yield made
    finally:
        for process in (*made.members.values(), serving):
            process.send_signal(signal.SIGTERM)
        for process in (*made.members.values(), serving):
            process.wait(60)
