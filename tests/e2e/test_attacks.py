"""Attacks of a member on the others, against the real programs: gateway, SuperLink, SuperExec, and two honest domains.

The member `grid` attacks in every phase of one run of two rounds. "Red" names the check whose removal makes a test fail.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization as s
from flwr.app import Context, Error, Message, RecordDict
from flwr.proto import fleet_pb2, run_pb2
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_tree

from cogen.config import load_config
from cogen.deploy.folder import FederationFolder
from cogen.deploy.members import Member, read_members
from cogen.node.receipt import read_receipts
from cogen.protocol.messages import HelloReply, pack
from cogen.protocol.wire import Frame
from cogen.runs import RunFolder, read_lines
from server.server_app import app as server_app
from tests.e2e.test_rounds import events
from tests.federation_processes import FederationProcesses, config_for, running_federation, weights
from tests.hostile_member import PROTOBUF, HostileMember, announcement, reply
from tests.in_process_grid import InProcessGrid
from tests.message_content import content_of, frame_of
from tests.reference_run import failing
from tests.waiting import in_background

HONEST = ("clinical", "materials")
NUM_OBJECTS = 30_000
RULES = {"min_valid_clients": 2, "round_deadline_seconds": 600, "connect_wait_seconds": 300, "max_failures": 9}
REASON = "training failed at the domain [/folder/x] [link=http://localhost]the log[/link] \x1b[2J\x1b]0;owned\x07<script>owned"


@dataclass
class Attack:
    """What the member `grid` does in a run; `victim` is the domain that it is after."""

    member: HostileMember
    victim: Member
    beats: list[float] = field(default_factory=list)
    seconds: float = 0.0
    done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Attack and answer until `done`."""
        phases: dict[str, Callable[[Message], Message]] = {
            "query.hello": self.at_hello,
            "train": self.at_train,
            "evaluate": self.at_evaluate,
        }
        with suppress(httpx.TransportError):  # at the end of the federation
            while not self.done.is_set():
                self.member.beat()
                if (asked := self.member.pull()) is not None:
                    self.member.push(phases[asked.metadata.message_type](asked))

    def at_hello(self, asked: Message) -> Message:
        """Announce the hello of the victim first, with other parts, so that the victim's own is refused."""
        nonce = bytes.fromhex(asked.metadata.group_id)
        theirs = get_object_tree(Message(content_of(pack(HelloReply(domain="clinical")), nonce), reply_to=asked))
        (content,) = theirs.children
        nothing = ObjectTree(object_id=hashlib.sha256(b"nothing").hexdigest())
        content = ObjectTree(object_id=content.object_id, children=[nothing])
        for about in ({"src_node_id": 1, "reply_to_message_id": ""}, {"reply_to_message_id": ""}, {"group_id": ""}):
            own = reply(asked, RecordDict())
            squat = announcement(self.member.node, own, ObjectTree(object_id=own.object_id, children=[content]), about)
            self.member.attack("squat", "push-messages", squat)
        return reply(asked, content_of(pack(HelloReply(domain="grid")), nonce))

    def at_train(self, asked: Message) -> Message:
        """Round 1: every other attack, then an error that is made for terminals. Round 2: a figure of 400 digits."""
        frame = frame_of(asked)
        if frame.header["round"] == 1:
            self.forge(asked)
            self.hold_lock(asked)
            self.double_header()
            return Message(Error(code=2, reason=REASON), reply_to=asked)
        lie = {"kind": "train_reply", "domain": "grid", "figures": {"num_tokens": 10**400}}
        lie |= {"fingerprint": dict.fromkeys(("weights", "tokenizer", "modules"), "0" * 64)}
        made = content_of(Frame(lie, frame.arrays), bytes.fromhex(asked.metadata.group_id))
        return reply(asked, made)

    def at_evaluate(self, asked: Message) -> Message:
        """A score that no page can show."""
        cell = {"bits_per_byte": 1.0, "num_bytes": float("inf"), "num_tokens": 5}
        scores = {"kind": "evaluate_reply", "domain": "grid", "scores": dict.fromkeys(("base", "combined"), cell)}
        return reply(asked, content_of(Frame(scores), bytes.fromhex(asked.metadata.group_id)))

    def forge(self, asked: Message) -> None:
        """Give the victim an instruction in SuperLink's name, and another one in its own."""
        for source in (1, self.member.key.node_id):
            for of in ("", asked.metadata.message_id):
                about = {"src_node_id": source, "dst_node_id": self.victim.node_id, "reply_to_message_id": of}
                made = announcement(self.member.node, reply(asked, asked.content), None, about)
                self.member.attack("forge", "push-messages", made)

    def hold_lock(self, asked: Message) -> None:
        """Announce far too many objects, and then the most that are allowed again and again."""
        stop = threading.Event()

        def beat() -> None:
            other = HostileMember.__new__(HostileMember)
            other.__dict__ |= self.member.__dict__
            while not stop.is_set():
                self.beats.append(other.beat())
                time.sleep(0.1)

        beating = in_background(beat)
        began = time.monotonic()
        self.member.attack("lockhold", "push-messages", self._wide(asked, NUM_OBJECTS))
        self.seconds = time.monotonic() - began
        for _ in range(10):
            self.member.say("push-messages", self._wide(asked, 64, reply_to_message_id="0f" * 32))
        stop.set()
        beating.join(60.0)

    def _wide(self, asked: Message, num: int, **about: str) -> fleet_pb2.PushMessagesRequest:
        leaves = [ObjectTree(object_id=os.urandom(32).hex()) for _ in range(num)]
        content = ObjectTree(object_id=os.urandom(32).hex(), children=leaves)
        tree = ObjectTree(object_id=os.urandom(32).hex(), children=[content])
        return announcement(self.member.node, reply(asked, RecordDict()), tree, about)

    def double_header(self) -> None:
        """Ask for the victim's work with its key as a second header."""
        public = s.load_ssh_public_key(self.victim.public_key.encode())
        pem = public.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
        doubled = [*PROTOBUF.items(), *self.member.key.headers().items()]
        doubled.append(("flwr-public-key", base64.b64encode(pem).decode()))
        for headers in (doubled, doubled[::-1]):
            self.member.attack(
                "double header", "pull-messages", fleet_pb2.PullMessagesRequest(node=self.member.node), headers
            )
            asked = run_pb2.GetRunRequest(node=self.member.node, run_id=1)
            self.member.attack("double header", "get-run", asked, headers)


@dataclass(frozen=True)
class Attacked:
    """The federation after its run."""

    federation: FederationProcesses
    attack: Attack
    code: int

    @property
    def statuses(self) -> dict[str, list[int]]:
        return self.attack.member.statuses

    def dropped(self) -> dict[int, str]:
        """By round (0: the scoring): why grid was dropped; nobody else may be."""
        found = events(self.federation.run, "client_dropped")
        assert {e["domain"] for e in found} == {"grid"}, found
        return {e["round"]: e["reason"] for e in found}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Attacked]:
    config = config_for(tiny_folder, with_data=False, **RULES)
    with running_federation(tmp_path_factory.mktemp("attacked"), config, tiny_folder, joining=HONEST) as made:
        invite = made.place / "grid.invite"
        made.output("invite", "grid", "--out", invite)
        member = HostileMember(invite)
        member.enrol()
        folder = FederationFolder(made.coordinator / "federation")
        attack = Attack(member, read_members(folder.path)["clinical"])
        in_background(attack.run)
        try:
            yield Attacked(made, attack, made.rounds())
        finally:
            attack.done.set()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> RunFolder:
    """The same rounds in this process; grid fails in each."""
    place = tmp_path_factory.mktemp("undisturbed")
    (place / "care.toml").write_text(config_for(tiny_folder, with_data=True, **RULES))
    run = RunFolder(place / "run")
    run.create(load_config(place / "care.toml").to_toml())
    server_app(InProcessGrid(3, {1: failing}), Context(1, 0, {}, RecordDict(), {"run": str(run.path), "config": ""}))
    return run


def test_the_others_finish_with_the_same_bits(attacked: Attacked, undisturbed: RunFolder) -> None:
    """As if grid had only failed. Red: any attack that reaches the others."""
    made = attacked.federation
    assert attacked.code == 0, made.log()
    assert attacked.dropped().keys() == {0, 1, 2}
    assert weights(made.run) == weights(undisturbed)
    cells = json.loads(made.run.evaluation.read_text())["cells"]
    assert {cell["domain"] for cell in cells} == set(HONEST)
    assert {len(e["weights"]) for e in events(made.run, "round_finished")} == {2}


@pytest.mark.parametrize("domain", HONEST)
def test_no_instruction_of_a_member_reaches_another(attacked: Attacked, domain: str) -> None:
    """Neither in its receipts nor in its work. Red: `_check_reply` without source and destination."""
    assert attacked.statuses["forge"] == [400] * 4
    made, run = attacked.federation, attacked.federation.run.read_id()
    receipts = read_receipts(made.home(domain) / "receipts.jsonl")
    assert [line["kind"] for line in receipts] == ["query", "train", "train", "evaluate"]
    works = read_lines(made.home(domain) / "work.jsonl")
    assert {line["run"] for line in (*receipts, *works)} == {run}
    assert [line["action"] for line in works if line["action"] != "unusual"] == ["train", "train", "evaluate"]


def test_a_domain_is_not_squatted_out_of_a_run(attacked: Attacked) -> None:
    """Red: `_check_reply` without `reply_to_message_id`, or a hello without a nonce of its own."""
    assert attacked.statuses["squat"] == [400] * 3
    asked = {client["domain"] for e in events(attacked.federation.run, "client_registry") for client in e["clients"]}
    assert asked == {*HONEST, "grid"}


def test_no_announcement_holds_superlinks_database(attacked: Attacked) -> None:
    """30,000 objects in one request held it for a minute. Red: `Limits.pull_bytes` and MAX_OBJECTS far above."""
    assert attacked.statuses["lockhold"] == [413]
    assert attacked.attack.seconds < 20.0
    assert len(attacked.attack.beats) > 1 and max(attacked.attack.beats) < 20.0


def test_two_keys_in_a_request_get_nobodys_work(attacked: Attacked) -> None:
    """Red: `single_headers` that takes the last of two."""
    assert attacked.statuses["double header"] == [400] * 4


def test_what_a_member_says_is_escaped_cut_and_costs_its_own_place(attacked: Attacked) -> None:
    """Red: a reason that is written down as it came, a number without bounds."""
    made, dropped = attacked.federation, attacked.dropped()
    assert "training failed at the domain [/folder/x]" in dropped[1]
    assert "message refused" in dropped[2] and "figures.num_tokens" in dropped[2]
    assert "message refused" in dropped[0] and "num_bytes" in dropped[0]
    assert max(map(len, dropped.values())) < 600
    page = (made.run.path / "report.html").read_text()
    assert "&lt;script&gt;owned" in page and "<script>owned" not in page
    for said in (*dropped.values(), made.log(), made.log(command="serve"), page):
        assert "\x1b" not in said and "\x07" not in said
