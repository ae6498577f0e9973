"""A coordinator and three domains on one machine, as their users start them: each command a process in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import psutil

from cogen.flower.superlink import free_port
from cogen.runs import RunFolder
from tests.conftest import SEEDS
from tests.gate import wait_until

DOMAINS = ("clinical", "grid", "materials")
SETTINGS = (
    "[train]\ntokens_per_round = 512\nsequence_length = 64\nbatch_size = 2\nlearning_rate = 0.01\nrank = 4\n"
    "[federation]\nnum_rounds = 2\nmin_valid_clients = 3\nround_deadline_seconds = 90\nconnect_wait_seconds = 90\n"
    "[evaluate]\nheldout_frac = 0.15\nmax_heldout_tokens = 512\nround_heldout_tokens = 128\n"
)
PATIENCE_SECONDS = 600.0
VICTIMS = {  # who can be killed, and the words by which to find it
    "superlink": "cogen.flower.superlink_process",
    "gateway": "gateway_process",
    "server app": "flwr-serverapp",
    "supernode": "cogen.flower.supernode_process",
    "trainer": "cogen.node.service",
    "launcher": "cogen.flower.clientapp_process",
}


def config_for(base: Path, *, with_data: bool, **federation: object) -> str:
    """Two rounds of all three domains; `federation` has keys of that table to set otherwise."""
    data = {d: f'data = "{SEEDS / d}.jsonl"\n' if with_data else "" for d in DOMAINS}
    domains = "".join(f'[[domains]]\nname = "{d}"\n{text}' for d, text in data.items())
    lines = SETTINGS.splitlines()
    for key, value in federation.items():
        lines = [line for line in lines if line.split(" =")[0] != key]
        lines.insert(lines.index("[federation]") + 1, f"{key} = {json.dumps(value)}")
    return f'[base]\nname = "{base}"\nprecision = "float32"\n{domains}' + "\n".join(lines) + "\n"


def weights(run: RunFolder) -> dict[str, bytes]:
    """Of the merged adapter and of every round's global one."""
    paths = sorted([run.merged, *(run.round(n) / "global" for n in (0, 1, 2))])
    return {str(p.relative_to(run.path)): (p / "adapter_model.safetensors").read_bytes() for p in paths}


class Line(Protocol):
    """How the domains reach the coordinator: its public address, and what a participant's commands begin with."""

    address: str
    bind: str

    def inside(self, name: str) -> list[str]: ...


class Loopback:
    """Without a network."""

    bind = "127.0.0.1"

    def __init__(self) -> None:
        self.address = f"localhost:{free_port(None)}"

    def inside(self, name: str) -> list[str]:
        return []


class Town:
    """Folders and processes; everything is ended with the block."""

    def __init__(self, place: Path, config: str, base: Path, line: Line) -> None:
        self.place, self.base, self.line = place, base, line
        self.coordinator = place / "coordinator"
        self.coordinator.mkdir(parents=True, exist_ok=True)
        self.configure("care", config)
        self.members: dict[str, subprocess.Popen[bytes]] = {}

    def configure(self, name: str, config: str) -> None:
        """What the next rounds are run with, as a run of this name."""
        self.config = self.coordinator / f"{name}.toml"
        self.config.write_text(config)
        self.run = RunFolder(self.coordinator / "federation" / "runs" / name)

    def start(self, folder: Path, *args: object) -> subprocess.Popen[bytes]:
        """A command of cogen; what it says goes to `<command>.log` in its folder."""
        with open(folder / f"{args[0]}.log", "ab") as log:
            command = [*self.line.inside(folder.name), sys.executable, "-m", "cogen.cli.app", *map(str, args)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)

    def say(self, *args: object) -> str:
        """What a command of the coordinator's prints."""
        command = [*self.line.inside("coordinator"), sys.executable, "-m", "cogen.cli.app", *map(str, args)]
        done = subprocess.run(command, cwd=self.coordinator, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def home(self, domain: str) -> Path:
        return self.place / domain / "home"

    def join(self, domain: str) -> None:
        """Invite a domain, and let it join."""
        folder = self.place / domain
        folder.mkdir(exist_ok=True)
        (folder / "its.invite").write_text(self.say("invite", domain))
        data = ("--data", SEEDS / f"{domain}.jsonl", "--base", self.base, "--folder", self.home(domain))
        self.members[domain] = self.start(folder, "join", "its.invite", *data)

    def rounds(self, *args: str, patience_seconds: float = PATIENCE_SECONDS) -> int:
        """`cogen run` until it ends; its exit code."""
        return self.start(self.coordinator, "run", self.config, *args).wait(patience_seconds)

    def log(self, domain: str | None = None, command: str = "run") -> str:
        folder = self.coordinator if domain is None else self.place / domain
        return (folder / f"{command}.log").read_text()

    def processes(self, kind: str) -> list[psutil.Process]:
        """All of a kind, below whatever was started here."""
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if VICTIMS[kind] in line and "cogen.flower.supervisor" not in line:
                found.append(process)
        return found


@contextmanager
def town(place: Path, config: str, base: Path, line: Line | None = None) -> Iterator[Town]:
    """Served, and joined by all three domains, over `line`."""
    made = Town(place, config, base, line or Loopback())
    address = ("--public-address", made.line.address, "--bind", made.line.bind)
    serving = made.start(made.coordinator, "serve", made.config, *address)
    try:
        listening = (made.coordinator / "federation" / "serve.json").is_file
        assert wait_until(lambda: listening() or serving.poll() is not None, PATIENCE_SECONDS)
        for domain in DOMAINS:
            made.join(domain)
        assert wait_until(lambda: all("connected to" in made.log(d, "join") for d in DOMAINS), PATIENCE_SECONDS)
        assert wait_until(lambda: made.say("nodes").count(" connected ") == 3, PATIENCE_SECONDS), made.say("nodes")
        yield made
    finally:
        for process in (*made.members.values(), serving):
            process.send_signal(signal.SIGTERM)
        for process in (*made.members.values(), serving):
            process.wait(60)
