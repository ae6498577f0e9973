"""A coordinator and three domains on one machine, as their users start them: each command a process in a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from cogen.federation.superlink import free_port
from cogen.runs import RunFolder
from tests.conftest import SEEDS
from tests.gate import wait_until

DOMAINS = ("clinical", "grid", "materials")
PATIENCE_SECONDS = 180.0
VICTIMS = {  # who can be killed, and the words by which to find it
    "superlink": "flower-superlink",
    "gateway": "gateway_process",
    "server app": "flwr-serverapp",
    "supernode": "flower-supernode",
    "trainer": "cogen.node.service",
    "launcher": "clients.launch",
}


class Town:
    """Folders and processes; everything is ended with the block."""

    def __init__(self, place: Path, config: str, base: Path) -> None:
        self.place, self.base = place, base
        self.coordinator = place / "coordinator"
        self.coordinator.mkdir(parents=True)
        self.config = self.coordinator / "care.toml"
        self.config.write_text(config)
        self.run = RunFolder(self.coordinator / "federation" / "runs" / "care")
        self.address = f"localhost:{free_port(None)}"
        self.members: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, folder: Path, *args: object) -> subprocess.Popen[bytes]:
        """A command of cogen; what it says goes to `<command>.log` in its folder."""
        with open(folder / f"{args[0]}.log", "ab") as log:
            command = [sys.executable, "-m", "cogen.cli.app", *map(str, args)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)

    def say(self, *args: object) -> str:
        """What a command of the coordinator's prints."""
        command = [sys.executable, "-m", "cogen.cli.app", *map(str, args)]
        done = subprocess.run(command, cwd=self.coordinator, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def home(self, domain: str) -> Path:
        return self.place / domain / "home"

    def join(self, domain: str) -> None:
        """Invite a domain, and let it join."""
        folder = self.place / domain
        folder.mkdir()
        (folder / "its.invite").write_text(self.say("invite", domain))
        data = ("--data", SEEDS / f"{domain}.jsonl", "--base", self.base, "--folder", self.home(domain))
        self.members[domain] = self.start(folder, "join", "its.invite", *data)

    def rounds(self, *args: str) -> int:
        """`cogen run` until it ends; its exit code."""
        return self.start(self.coordinator, "run", self.config, *args).wait(PATIENCE_SECONDS)

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
            if VICTIMS[kind] in line and "cogen.federation.guard" not in line:
                found.append(process)
        return found


@contextmanager
def town(place: Path, config: str, base: Path) -> Iterator[Town]:
    """Served, and joined by all three domains."""
    made = Town(place, config, base)
    serving = made.start(
        made.coordinator, "serve", made.config, "--public-address", made.address, "--bind", "127.0.0.1"
    )
    try:
        listening = (made.coordinator / "federation" / "serve.json").is_file
        assert wait_until(lambda: listening() or serving.poll() is not None, PATIENCE_SECONDS)
        for domain in DOMAINS:
            made.join(domain)
        assert wait_until(lambda: made.say("nodes").count(" connected ") == 3, PATIENCE_SECONDS), made.say("nodes")
        yield made
    finally:
        for process in (*made.members.values(), serving):
            process.send_signal(signal.SIGTERM)
        for process in (*made.members.values(), serving):
            process.wait(60)
