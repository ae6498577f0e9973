"""`cogen serve` with Flower's real SuperLink and SuperNodes: joined, connected, revoked, killed, started again."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from cryptography.hazmat.primitives import serialization as s

from cogen.deploy.about import Serving, read_serving
from cogen.deploy.folder import FederationFolder
from cogen.deploy.invites import read_invite
from cogen.deploy.members import Member, add_member, read_members, revoke_member
from cogen.deploy.run import end_others
from cogen.errors import FederationError
from cogen.flower.superlink import flower_environment
from cogen.flower.superlink_client import SuperLinkClient
from cogen.runs import RunFolder, read_lines
from cogen.shipped_files import shipped_app
from tests.ports import free_port
from tests.running_gateway import NodeKey
from tests.shell import Cogen, refused
from tests.waiting import wait_until

PATIENCE_SECONDS = 90.0


@dataclass
class Served:
    """A federation that is served by a process."""

    config: Path
    folder: FederationFolder
    address: str
    log: Path

    @contextmanager
    def serve(self, *args: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "cogen.cli.app", "serve", str(self.config)]
        command += ["--folder", str(self.folder.path), "--bind", "127.0.0.1", *args]
        with open(self.log, "ab") as log:
            process = subprocess.Popen(command, stderr=log, stdout=log, cwd=self.log.parent)
        try:
            up = wait_until(lambda: self.folder.serving.is_file() or process.poll() is not None, PATIENCE_SECONDS)
            assert up and process.poll() is None, self.log.read_text()
            yield process
        finally:
            relatives = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.send_signal(signal.SIGTERM)
            assert process.wait(30.0) == 0
            assert not psutil.wait_procs(relatives, timeout=10.0)[1]
            assert not self.folder.serving.exists()

    def command(self, *args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cogen.cli.app", *args, "--folder", str(self.folder.path)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)

    def states(self) -> dict[str, str]:
        shown = self.command("nodes", "--json")
        assert shown.returncode == 0, shown.stderr
        return {row["domain"]: row["state"] for row in json.loads(shown.stdout)["domains"]}

    def enrol(self, domain: str, folder: Path, key: NodeKey) -> httpx.Response:
        """As a domain does it: with what stands in the invite, and nothing else."""
        path = folder / f"{domain}.invite"
        made = self.command("invite", domain, "--out", str(path))
        assert made.returncode == 0, made.stderr
        invite = read_invite(path)
        asked = {"token": invite.token, "domain": invite.domain, "public_key": key.line}
        asked |= {"app_sha256": invite.app_sha256, "fingerprint": invite.fingerprint.model_dump()}
        trusted = ssl.create_default_context(cadata=invite.ca)
        return httpx.post(f"https://{invite.address}/enrol", json=asked, verify=trusted, timeout=60.0, trust_env=False)

    def node(self, folder: Path, key: NodeKey) -> subprocess.Popen[bytes]:
        """Flower's own SuperNode with this key."""
        path = folder / f"{time.monotonic_ns()}.key"
        path.write_bytes(key.private.private_bytes(s.Encoding.PEM, s.PrivateFormat.OpenSSH, s.NoEncryption()))
        command = [str(Path(sys.executable).with_name("flower-supernode")), "--superlink", self.address]
        command += ["--root-certificates", str(self.folder.ca), "--auth-supernode-private-key", str(path)]
        command += ["--host", "127.0.0.1", "--port", str(free_port())]
        with open(folder / "node.log", "ab") as log:
            return subprocess.Popen(command, env=flower_environment(folder / "home"), stdout=log, stderr=log)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Served:
    place = tmp_path_factory.mktemp("served")
    (place / "server.py").write_text("raise SystemExit('a module of the folder that cogen was started in')\n")
    config = place / "care.toml"
    config.write_text(f'[base]\nname = "{tiny_folder}"\n[[domains]]\nname = "clinical"\n[[domains]]\nname = "grid"\n')
    return Served(config, FederationFolder(place / "fed"), f"127.0.0.1:{free_port()}", place / "serve.log")


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes of a test; what is still there at its end is killed, with what it started."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.wait()


def heard(served: Served, domain: str, after: str | None) -> Callable[[], bool]:
    return lambda: (read_members(served.folder.path)[domain].last_seen or "") > (after or "")


@pytest.mark.slow
def test_a_federation_from_its_first_start_to_a_revoked_member(
    served: Served, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    """One story, because every start of Flower's programs takes seconds."""
    with served.serve("--public-address", served.address) as first:
        assert "next: cogen invite clinical" in served.log.read_text()
        assert served.states() == {"clinical": "not invited", "grid": "not invited"}
        mine = NodeKey()
        answer = served.enrol("clinical", tmp_path, mine)
        assert answer.status_code == 200, answer.text
        member = read_members(served.folder.path)["clinical"]
        assert answer.json() == {"node_id": member.node_id, "name": "care"}
        again = served.command("invite", "clinical")
        assert again.returncode == 2
        assert "cogen revoke clinical" in again.stderr

        node = served.node(tmp_path, mine)
        started.append(node)
        assert wait_until(heard(served, "clinical", None), PATIENCE_SECONDS), (tmp_path / "node.log").read_text()
        assert served.states() == {"clinical": "connected", "grid": "not invited"}
        superlink_client = SuperLinkClient(served.folder.flwr_home, served.folder.logs)
        assert superlink_client.nodes() == {member.node_id: "online"}

        # A key that the gateway knows and SuperLink does not, is refused there.
        other = NodeKey()
        add_member(served.folder.path, Member("grid", other.line, 77, "2026-01-01T00:00:00+00:00"))
        trusted = ssl.create_default_context(cafile=str(served.folder.ca))
        with httpx.Client(base_url=f"https://{served.address}", verify=trusted, trust_env=False) as client:
            kind = {"content-type": "application/protobuf", "accept": "application/protobuf"}
            answer = client.post("/v1/fleet/pull-messages", headers={**other.headers(), **kind}, content=b"\n\x02\x08M")
            assert answer.status_code == 401
            assert client.post("/v1/control/list-runs", headers={**mine.headers(), **kind}).status_code == 404
        revoke_member(served.folder.path, "grid")

        # SuperLink dies: it is started again, and the node goes on with its id.
        seen = read_members(served.folder.path)["clinical"].last_seen
        _superlink(first.pid).kill()
        assert wait_until(lambda: "SuperLink started again" in served.log.read_text(), PATIENCE_SECONDS)
        assert wait_until(heard(served, "clinical", seen), PATIENCE_SECONDS)
        assert wait_until(lambda: _nodes(superlink_client) == {member.node_id: "online"}, PATIENCE_SECONDS)

        second = served.command("serve", str(served.config))
        assert second.returncode == 2
        assert "expected no other cogen serve on this folder" in second.stderr

    # Stopped and started, with the address remembered: nothing is lost, and the node comes back by itself.
    seen = read_members(served.folder.path)["clinical"].last_seen
    assert served.states()["clinical"] == "away"
    with served.serve():
        assert wait_until(heard(served, "clinical", seen), PATIENCE_SECONDS), (tmp_path / "node.log").read_text()
        assert read_members(served.folder.path)["clinical"].node_id == member.node_id
        assert node.poll() is None
        _a_run_that_nobody_follows_is_ended(served, superlink_client, RunFolder(tmp_path / "run"))
        gone = served.command("revoke", "clinical")
        assert gone.returncode == 0
        node.wait(PATIENCE_SECONDS)  # refused with 401, Flower's node ends itself, in good order
        assert served.states()["clinical"] == "revoked"
        assert _nodes(superlink_client).get(member.node_id) in (None, "unregistered")


def _a_run_that_nobody_follows_is_ended(served: Served, superlink_client: SuperLinkClient, run: RunFolder) -> None:
    """What a killed `cogen run` leaves: Flower's run, and a server app that writes into the run folder."""
    serving = read_serving(served.folder)
    run.create(served.config.read_text())
    with shipped_app() as app:
        run_id = superlink_client.submit(app, str(run.path))
    assert wait_until(lambda: bool(read_lines(run.events_path)), PATIENCE_SECONDS)
    assert superlink_client.unfinished() == [run_id]
    assert _server_apps(serving.pid)
    end_others(superlink_client, serving)
    assert superlink_client.unfinished() == []
    assert superlink_client.status(run_id) == "finished:stopped"
    assert not _server_apps(serving.pid)
    _superlink(serving.pid).kill()
    end_others(superlink_client, serving)  # waits until it is there again


def _superlink(pid: int) -> psutil.Process:
    return _below(pid, "cogen.flower.superlink_process")[-1]


def _server_apps(pid: int) -> list[psutil.Process]:
    return _below(pid, "flwr-serverapp")


def _below(pid: int, word: str) -> list[psutil.Process]:
    found = psutil.Process(pid).children(recursive=True)
    return [p for p in found if p.status() != psutil.STATUS_ZOMBIE and word in str(p.cmdline())]


def _nodes(superlink_client: SuperLinkClient) -> dict[int, str]:
    try:
        return superlink_client.nodes()
    except FederationError:  # while SuperLink starts
        return {}


def test_commands_before_there_is_a_federation_say_what_to_do(cogen: Cogen, config_file: Path, tmp_path: Path) -> None:
    for words in (["invite", "grid"], ["nodes"], ["revoke", "grid"], ["run", config_file]):
        refused(cogen(*words, "--folder", tmp_path / "none"), "cogen serve")


def test_settings_that_no_domain_could_use_are_refused(cogen: Cogen, config_file: Path, tmp_path: Path) -> None:
    address = ("--public-address", "127.0.0.1:9443", "--folder", tmp_path / "fed")
    text = config_file.read_text()
    config_file.write_text(text.replace("[train]", '[train]\nreplay = "general.jsonl"'))
    refused(cogen("serve", config_file, *address), "no train.replay: each domain chooses")
    config_file.write_text(text)
    refused(cogen("serve", config_file, "--folder", tmp_path / "fed"), "--public-address")
    refused(cogen("serve", config_file, *address[:1], "https://x", *address[2:]), "HOST:PORT")
    refused(cogen("serve", config_file, *address, "--key", config_file), "--certificate and --key together")
    assert not (tmp_path / "fed" / "about.json").exists()


def test_a_stopped_federation_is_not_taken_for_a_running_one(tmp_path: Path) -> None:
    """Even when its last process left its note behind, and another process has its number now."""
    folder = FederationFolder(tmp_path / "fed")
    folder.create()
    folder.write(folder.config, "")
    serving = Serving(pid=os.getpid(), bind="127.0.0.1:9443", app_sha256="a" * 64)
    serving.write(folder.serving, private=True)
    with pytest.raises(FederationError, match="nobody serves this federation"):
        read_serving(folder)
    with folder.lock():
        assert read_serving(folder).pid == os.getpid()
