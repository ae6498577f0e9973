"""The decrypted traffic of nodes: it is Flower's protocol and matches the receipts; replayed requests change nothing."""

from __future__ import annotations

import base64
import getpass
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as s
from flwr.proto import fleet_pb2, message_pb2

from cogen.config import load_config
from cogen.deploy.folder import FederationFolder
from cogen.flower.bundle import HOME_VARIABLE, build_app
from cogen.flower.superlink_client import SuperLinkClient
from cogen.node.receipt import read_receipts
from cogen.runs import RunFolder
from cogen.shipped_files import shipped_root
from tests.conftest import SEEDS
from tests.e2e.test_rounds import events
from tests.federation_processes import (
    DOMAINS,
    PATIENCE_SECONDS,
    FederationProcesses,
    config_for,
    running_federation,
    weights,
)
from tests.flower_requests import FLEET, assert_is_flower_request, assert_is_join_request, pushed_replies, sign_again
from tests.ports import free_port
from tests.receipts import assert_is_receipt
from tests.recording_proxy import RecordedRequest, RecordingProxy, running_recorder
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

USER = "ward-seven-clerk"  # whom the programs of this test run as, by their environment
WORDS = re.compile(rb"[\t\n\x20-\x7e\x80-\xff]{6,}")


@dataclass(frozen=True)
class Stage:
    """A federation whose requests are recorded."""

    federation: FederationProcesses
    recorder: RecordingProxy

    def of(self, domain: str) -> list[RecordedRequest]:
        """What a domain's node has said to Flower, in order, whatever the connection."""
        its = [said for said in self.recorder.requests() if said.headers.get("flwr-public-key") == self.key(domain)]
        return sorted(its, key=lambda said: said.headers["flwr-timestamp"])

    def key(self, domain: str) -> str:
        public = s.load_ssh_public_key((self.federation.home(domain) / "key.pub").read_bytes())
        pem = public.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(pem).decode()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Stage]:
    place = tmp_path_factory.mktemp("tapped")
    recorder = RecordingProxy(free_port(), place / "coordinator" / "federation")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("LOGNAME", "USER"):
            patch.setenv(name, USER)
        with (
            running_recorder(recorder),
            running_federation(place, config_for(tiny_folder, with_data=False), tiny_folder, recorder) as made,
        ):
            assert getpass.getuser() == USER
            yield Stage(made, recorder)


# The receipts, and nothing besides


def private_text(made: FederationProcesses) -> set[bytes]:
    """Each part of the texts of 24 characters, titles, file names, paths, the host, the user."""
    found = {USER, socket.gethostname(), *(f"{d}.jsonl" for d in DOMAINS), str(made.place), str(SEEDS), str(made.base)}
    for domain in DOMAINS:
        for line in (SEEDS / f"{domain}.jsonl").read_text().splitlines():
            document = json.loads(line)
            text = document["text"]
            found |= {text[i : i + 24] for i in range(0, len(text) - 24, 24)} | {document["title"]}
    return {part.encode() for part in found if len(part) > 5 and part != "localhost"}


def test_two_rounds_say_what_the_receipts_say_and_nothing_else(stage: Stage, simulated: RunFolder) -> None:
    """Red: a value, an array or a record that the receipt omits; a header or a field with more in it."""
    made = stage.federation
    assert made.rounds() == 0, made.log()
    assert weights(made.run) == weights(simulated)
    for domain in DOMAINS:
        replies = pushed_replies(stage.of(domain))
        lines = read_receipts(made.home(domain) / "receipts.jsonl")
        assert [line["kind"] for line in lines] == ["query", "train", "train", "evaluate"]
        for line, (message, frame) in zip(lines, replies, strict=True):
            assert_is_receipt(line, message, frame)
    for said in stage.recorder.requests():
        (assert_is_flower_request if said.path.startswith(FLEET) else assert_is_join_request)(said)
    words = b"\n".join(WORDS.findall(b"\n".join(bytes(stream) for stream in stage.recorder.streams)))
    assert b"num_tokens" in words and b"clinical" in words  # it is in plain
    assert not [part for part in private_text(made) if part in words]


# What is said twice


def reply_of_a_round(stage: Stage, domain: str, num_before: int) -> RecordedRequest | None:
    """The push of the first trained reply among what the domain's node has said after `num_before` requests."""
    for said in stage.of(domain)[num_before:]:
        if said.path == f"{FLEET}push-messages":
            (about,) = fleet_pb2.PushMessagesRequest.FromString(said.body).messages_list
            if about.metadata.message_type == "train":
                return said
    return None


def say_again(stage: Stage, first: RecordedRequest, key: Path) -> int:
    """The push of a reply, and all objects of it that are wanted for that; the status of the push."""
    status, body = stage.recorder.again(sign_again(key, first))
    if status != 200:
        return status
    answer = fleet_pb2.PushMessagesResponse.FromString(body)
    for said in stage.of("grid"):
        if said.path == f"{FLEET}push-object":
            one = message_pb2.PushObjectRequest.FromString(said.body)
            if one.object_id in answer.objects_to_push:
                one.session_id = answer.session_id
                assert stage.recorder.again(sign_again(key, replace(said, body=one.SerializeToString())))[0] == 200
    return status


def test_a_reply_that_is_said_again_changes_nothing(stage: Stage, tiny_folder: Path, simulated: RunFolder) -> None:
    """By its own node and by another member: once it has arrived, in the next round, and when the run is over.

    SuperLink answers the node as it did before, and nothing comes of it. While a reply is on its way, its own node can
    break it, as it can leave it out, and no other. Red: a second reply that enters a round, or
    one that is taken from another key.
    """
    made = stage.federation
    made.configure("again", config_for(tiny_folder, with_data=False))
    before = len(stage.of("grid"))
    running = made.start(made.coordinator, "run", made.config)
    assert wait_until(lambda: reply_of_a_round(stage, "grid", before) is not None, PATIENCE_SECONDS), made.log()
    first = reply_of_a_round(stage, "grid", before)
    assert first is not None
    assert wait_until(lambda: "grid" in {e["domain"] for e in events(made.run, "client_replied")}, PATIENCE_SECONDS)
    mine, another = made.home("grid") / "key", made.home("clinical") / "key"
    assert stage.recorder.again(first)[0] in (200, 403)  # byte for byte
    assert say_again(stage, first, mine) in (200, 403)
    assert say_again(stage, first, another) == 400
    assert wait_until(lambda: len(events(made.run, "round_started")) == 2 or running.poll() is not None, 300.0)
    assert say_again(stage, first, mine) in (200, 403)
    assert say_again(stage, first, another) == 400
    assert running.wait(PATIENCE_SECONDS) == 0, made.log()
    assert wait_until(lambda: say_again(stage, first, mine) == 403, 60.0)  # SuperLink ends the run a moment later
    replied = [(e["round"], e["domain"]) for e in events(made.run, "client_replied")]
    assert sorted(replied) == [(number, domain) for number in (1, 2) for domain in DOMAINS]
    assert not events(made.run, "client_dropped")
    assert weights(made.run) == weights(simulated)


# Another app


def altered_app(place: Path, trace: Path) -> Path:
    """The shipped app, with a line in each module of the client's that writes down for which domain it is run."""
    for part in ("clients", "server"):
        shutil.copytree(shipped_root() / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(shipped_root() / name, place / name)
    for module in (place / "clients").glob("*.py"):
        with open(module, "a") as file:
            file.write(
                f"\nimport os\nprint(os.environ.get('{HOME_VARIABLE}', 'none'), file=open({str(trace)!r}, 'a'))\n"
            )
    return place


def test_another_app_is_refused_by_every_domain_and_the_rounds_reason_names_its_hash(
    stage: Stage, tiny_folder: Path, tmp_path: Path
) -> None:
    """Submitted by whoever reaches the coordinator's loopback. Red: a launcher without its check."""
    made, trace = stage.federation, tmp_path / "trace"
    app, folder = altered_app(tmp_path / "app", trace), FederationFolder(made.coordinator / "federation")
    digest = hashlib.sha256(build_app(app)).hexdigest()
    made.configure(
        "other", config_for(tiny_folder, with_data=False, connect_wait_seconds=1, min_connected_wait_seconds=1)
    )
    made.run.create(load_config(made.config).to_toml())
    superlink_client = SuperLinkClient(folder.flwr_home, folder.logs)
    run_id = superlink_client.submit(app, made.run.path.name)
    assert wait_until(lambda: superlink_client.status(run_id).startswith("finished"), PATIENCE_SECONDS)
    assert superlink_client.status(run_id) == "finished:failed"
    missing = events(made.run, "client_registry")[-1]["missing"]
    for domain in DOMAINS:
        assert "app refused by the domain" in missing[domain] and f"got {digest}" in missing[domain], missing
        assert f"got {digest}" in (made.home(domain) / "logs" / "clientapp.log").read_text()
        assert read_receipts(made.home(domain) / "receipts.jsonl")[-1]["kind"] == "app"
    by_whom = set(trace.read_text().split()) if trace.exists() else set()
    assert by_whom <= {"none"}  # Flower's own `flwr run` imports what it submits
    environment = {**os.environ, "PYTHONPATH": f"{app}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    environment[HOME_VARIABLE] = "here"
    subprocess.run([sys.executable, "-c", "import clients"], env=environment, cwd=app, check=True)
    assert "here" in trace.read_text().split(), "the app must be one that leaves a trace"
