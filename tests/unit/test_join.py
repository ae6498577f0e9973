"""Joining by a real invite over real TLS: what is checked before anything is sent, and what is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from cogen.adapter import Fingerprint
from cogen.base import describe_base
from cogen.data.prepare import common_cache, prepared_from
from cogen.deploy.admission import ClocksApart, greet
from cogen.deploy.certificates import ensure_certificate
from cogen.deploy.folder import FederationFolder
from cogen.deploy.invites import Invite, read_invite
from cogen.deploy.join import absolute_base, join, member_of, prepare_data, sole, was_refused
from cogen.errors import BaseModelError, ConfigError, DataError, FederationError, FingerprintMismatch, RunError
from cogen.flower.bundle import installed_app_sha256
from cogen.flower.node_programs import programs_of
from cogen.flower.patches.answers import REFUSED_KEY
from cogen.node.home import Membership, NodeHome
from cogen.node.policy import Policy
from cogen.node.receipt import SentMessage, record
from cogen.node.round_bounds import shortfalls
from cogen.node.round_spec import RoundSpec, default_round_spec
from tests.conftest import SEEDS
from tests.member import some_member
from tests.shell import Cogen, refused
from tests.stub_gateway import StubGateway, running_stub

DATA = str(SEEDS / "grid.jsonl")
SEVERAL = "3 rounds, and later ones begin from merged factors"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[StubGateway]:
    with running_stub(tmp_path / "federation") as made:
        yield made


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    made = NodeHome(tmp_path / "home")
    made.make()
    return made


@pytest.fixture
def invite(gateway: StubGateway, tiny_folder: Path) -> Invite:
    return gateway.invite(str(tiny_folder), describe_base(str(tiny_folder)).fingerprint, installed_app_sha256())


def test_a_base_in_a_folder_is_kept_by_its_whole_path(
    invite: Invite, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer works in another folder. Red: `--base ./base`, which is not there."""
    monkeypatch.chdir(tiny_folder.parent)
    assert member_of(invite, DATA, f"./{tiny_folder.name}").base == str(tiny_folder.resolve())
    assert absolute_base("smollm2-135m") == "smollm2-135m"


def test_a_key_is_made_here_and_only_its_public_half_is_sent(
    gateway: StubGateway, home: NodeHome, invite: Invite
) -> None:
    member = member_of(invite, DATA)
    join(invite, member, home)
    (asked,) = gateway.asked
    assert set(asked) == {"token", "domain", "public_key", "app_sha256", "fingerprint"}
    assert (asked["token"], asked["domain"]) == (invite.token, "grid")
    key = load_ssh_private_key(home.key.read_bytes(), None)
    public = load_ssh_public_key(asked["public_key"].encode())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert isinstance(public.curve, ec.SECP384R1)
    assert key.public_key() == public
    assert home.key.stat().st_mode & 0o777 == 0o600
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert home.read_member() == member
    assert home.ca.read_text() == gateway.folder.ca.read_text()
    assert all(invite.token not in p.read_text() for p in home.path.rglob("*") if p.is_file())


def test_the_same_folder_goes_on_without_asking_again(gateway: StubGateway, home: NodeHome, invite: Invite) -> None:
    """Even when the invite is over by then; another invite makes another key."""
    join(invite, member_of(invite, DATA), home)
    key = home.key.read_bytes()
    gateway.refusal = "used"
    join(invite, member_of(invite, DATA), home)
    assert len(gateway.asked) == 1
    assert home.key.read_bytes() == key
    gateway.refusal = ""
    again = gateway.invite(invite.base, invite.base_fingerprint, invite.app_sha256)
    join(again, member_of(again, DATA), home)
    assert len(gateway.asked) == 2
    assert home.key.read_bytes() != key


def test_an_answer_that_was_lost_costs_no_new_invite(gateway: StubGateway, home: NodeHome, invite: Invite) -> None:
    """The key was entered, the answer never came, the process was killed; now the invite counts as used."""
    join(invite, member_of(invite, DATA), home)
    home.enrolled.unlink()
    key = home.key.read_bytes()
    gateway.refusal = "an invite that was used"
    join(invite, member_of(invite, DATA), home)
    assert (home.key.read_bytes(), home.enrolled.exists()) == (key, True)


def test_a_refusal_is_told_and_leaves_no_member(gateway: StubGateway, home: NodeHome, invite: Invite) -> None:
    gateway.refusal = "one that was used"
    with pytest.raises(FederationError, match=r"the coordinator refused: .*403: one that was used"):
        join(invite, member_of(invite, DATA), home)
    with pytest.raises(RunError, match="no member here"):
        home.read_member()


def test_an_invite_that_is_over_is_not_sent(gateway: StubGateway, home: NodeHome, invite: Invite) -> None:
    over = gateway.invite(invite.base, invite.base_fingerprint, invite.app_sha256, days=-1.0)
    with pytest.raises(FederationError, match="still open"):
        join(over, member_of(over, DATA), home)
    assert not gateway.asked


def test_an_altered_invite_is_not_read(tmp_path: Path, invite: Invite) -> None:
    path = tmp_path / "one.invite"
    path.write_text(invite.to_toml().replace('domain = "grid"', 'domain = "clinical"'))
    with pytest.raises(FederationError, match="altered"):
        read_invite(path)


@pytest.mark.parametrize(
    ("ahead", "text"),
    [(600.0, "(59.|600) s behind"), (-600.0, "60. s ahead of"), (-20.0, "2. s ahead of"), (200.0, ""), (-2.0, "")],
)
def test_clocks_too_far_apart_stop_it(gateway: StubGateway, ahead: float, text: str) -> None:
    """Flower believes signatures that are up to 305 s old, or 5 s of the future. Red: 300 s either way."""
    gateway.ahead_seconds = ahead
    if not text:
        assert greet(gateway.address, gateway.folder.ca.read_text()) == pytest.approx(-ahead, abs=5.0)
        return
    expected = "expected a clock less than 300 s behind the coordinator's and 5 s ahead, got one "
    with pytest.raises(ClocksApart, match=f"{expected}{text} it .*Set this machine's clock"):
        greet(gateway.address, gateway.folder.ca.read_text())


def test_another_authority_is_not_believed(
    gateway: StubGateway, home: NodeHome, invite: Invite, tmp_path: Path
) -> None:
    """Red: the system's authorities, or no check."""
    other = FederationFolder(tmp_path / "other")
    other.create()
    ensure_certificate(other, "localhost")
    forged = invite.model_copy(update={"ca": other.ca.read_text()})
    with pytest.raises(FederationError, match="a certificate of the invite's CA"):
        join(forged, member_of(forged, DATA), home)
    assert not gateway.asked


def test_nobody_there_is_said_in_one_line(gateway: StubGateway) -> None:
    with pytest.raises(FederationError, match="expected the coordinator to answer"):
        greet("localhost:1", gateway.folder.ca.read_text())


def test_another_base_app_or_corpus_is_found_before_anything_is_sent(
    gateway: StubGateway, invite: Invite, tmp_path: Path
) -> None:
    fingerprint = invite.base_fingerprint
    other = gateway.invite(invite.base, replace(fingerprint, weights="e" * 64), invite.app_sha256)
    with pytest.raises(FingerprintMismatch, match=r"expected weights eeeeeeeeeeee .* --base"):
        member_of(other, DATA)
    elsewhere = gateway.invite("their-base", fingerprint, invite.app_sha256)
    with pytest.raises(BaseModelError, match=r"'their-base'.* --base\."):
        member_of(elsewhere, DATA)
    assert member_of(elsewhere, DATA, invite.base).base_name == "their-base"
    other = gateway.invite(invite.base, Fingerprint(**vars(fingerprint)), "f" * 64)
    with pytest.raises(FederationError, match=r"another app is installed: expected .* ffffffffffff"):
        member_of(other, DATA)
    with pytest.raises(DataError, match="no such path"):
        member_of(invite, str(tmp_path / "none"))
    assert not gateway.asked


def test_the_node_is_told_its_socket_and_finds_the_launcher_first(home: NodeHome, invite: Invite) -> None:
    member: Membership = member_of(invite, DATA)
    trainer, *_, node = programs_of(home, member, 0, print, threads=3)
    assert trainer.environment["OMP_NUM_THREADS"] == "3"
    assert node.environment["PATH"].split(":")[0] == str(home.programs)
    assert node.environment["COGEN_APP_SHA256"] == invite.app_sha256
    assert node.environment["FLWR_HOME"] == str(home.flower)
    assert "--insecure" not in node.argv
    words = {word: after for word, after in pairwise(node.argv) if word.startswith("--")}
    assert words["--root-certificates"] == str(home.ca)
    assert words["--superlink"] == invite.address
    assert str(home.socket) in Path(words["--node-config"]).read_text()


def test_a_folder_has_one_join_at_a_time(home: NodeHome) -> None:
    with sole(home), pytest.raises(RunError, match="one that is running"), sole(home, 0.1):
        pass
    with sole(home):
        pass


def invite_for(gateway: StubGateway, like: Invite, asks: RoundSpec) -> Invite:
    return gateway.invite(like.base, like.base_fingerprint, like.app_sha256, round=asks)


@pytest.mark.parametrize("dry_run", [["--dry-run"], []])
def test_a_corpus_of_which_much_is_lost_does_not_join(
    gateway: StubGateway, invite: Invite, cogen: Cogen, tmp_path: Path, dry_run: list[str]
) -> None:
    """Red: no account in `cogen join`."""
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.jsonl").write_bytes(Path(DATA).read_bytes())
    (notes / "b.txt").write_bytes(b"\xff" * Path(DATA).stat().st_size)
    path = tmp_path / "its.invite"
    path.write_text(invite.to_toml())
    code, out, err = cogen("join", path, "--data", notes, "--folder", tmp_path / "member", *dry_run)
    assert (code, out, gateway.asked) == (2, "", [])
    assert "50% of the text lost" in err and "--accept-loss" in err.splitlines()[-1]
    code, out, err = cogen("join", path, "--data", notes, "--folder", tmp_path / "member", "--dry-run", "--accept-loss")
    assert code == 0 and "50% of the text lost" in err


def test_a_dry_run_shows_what_would_be_sent_and_asks_nobody(
    cogen: Cogen, gateway: StubGateway, invite: Invite, tmp_path: Path
) -> None:
    path, folder = tmp_path / "one.invite", tmp_path / "member"
    base = describe_base(invite.base)
    asks = default_round_spec().model_copy(update={"rank": 6, "target_modules": ("q_proj",)})
    some = {name: shape for name, shape in base.modules.items() if "q_proj" in name}
    for made, rank, modules in ((invite, 16, base.modules), (invite_for(gateway, invite, asks), 6, some)):
        path.write_text(made.to_toml())
        code, out, err = cogen("join", path, "--data", DATA, "--folder", folder, "--dry-run")
        assert code == 0, err
        rows = [line for line in out.splitlines() if "float32" in line]
        assert len(rows) == 2 * len(modules) > 0
        name, (_, d_in) = next(iter(modules.items()))
        assert f"factors/{name}.a float32 {rank} x {d_in} {4 * rank * d_in} bytes" in [
            " ".join(r.split()) for r in rows
        ]
        total = sum(4 * min(rank, o, i) * (o + i) for o, i in modules.values())
        assert f"{len(rows)} arrays, {total} bytes" in out
        assert ("the invite does not say" in out) == (made.round is None)
    assert {p.relative_to(folder).parts[0] for p in folder.rglob("*") if p.is_file()} == {"data"}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not gateway.asked


def test_prepared_text_lies_in_the_members_folder_alone(
    cogen: Cogen, gateway: StubGateway, invite: Invite, tmp_path: Path, cache: Path
) -> None:
    """What the preview prepares, joining finds again; the common cache has none of it. Red: another place for one."""
    notes, home = tmp_path / "notes.jsonl", NodeHome(tmp_path / "member")
    notes.write_bytes(Path(DATA).read_bytes())
    path = tmp_path / "one.invite"
    path.write_text(invite.to_toml())
    assert cogen("join", path, "--data", notes, "--folder", home.path, "--dry-run")[0] == 0
    (made,) = prepared_from(notes, home.prepared)
    before = (made / "card.json").stat()
    prepared = prepare_data(member_of(invite, str(notes)), home)
    assert prepared.num_train_tokens > 1000 and prepared_from(notes, home.prepared) == [made]
    assert (made / "card.json").stat().st_ino == before.st_ino
    assert shortfalls(Policy(), prepared, "") == []
    (line,) = shortfalls(Policy(), prepared, SEVERAL)  # said at once, not when the others have begun
    assert line.startswith("no round will be trained: a run is 3 rounds") and "fresh_starts = false" in line
    assert shortfalls(Policy(fresh_starts=False), prepared, SEVERAL) == []
    assert prepared_from(notes, common_cache()) == [] and common_cache().is_relative_to(cache)
    assert {p.stat().st_mode & 0o777 for p in (home.path, home.prepared, made)} == {0o700}


def test_a_corpus_and_a_members_folder_are_apart(invite: Invite, tmp_path: Path) -> None:
    """Else prepared text would be read as documents, or leaving would remove documents."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.jsonl").write_bytes(Path(DATA).read_bytes())
    member = member_of(invite, str(corpus))
    for place in (corpus, corpus / "member", tmp_path):
        with pytest.raises(ConfigError, match="a corpus outside the member's folder"):
            prepare_data(member, NodeHome(place))
    assert [p.name for p in corpus.iterdir()] == ["a.jsonl"]
    NodeHome(corpus / ".local" / "member").require_apart(str(corpus))  # hidden files are not read
    NodeHome(tmp_path / "corpus-2").require_apart(str(corpus))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o600, 0o400])
def test_an_invite_that_others_can_read_is_said_in_one_line(
    cogen: Cogen, invite: Invite, tmp_path: Path, mode: int
) -> None:
    """Red: no look at the mode, or a warning about a file of the owner's alone."""
    path = tmp_path / "one.invite"
    path.write_text(invite.to_toml())
    path.chmod(mode)
    _, _, err = cogen("join", path, "--folder", tmp_path / "member")
    warnings = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert [line for line in warnings if "chmod 600" in line and str(path) in line] == warnings
    assert len(warnings) == (1 if mode & 0o077 else 0)


def test_what_is_missing_is_said(cogen: Cogen, invite: Invite, tmp_path: Path) -> None:
    path = tmp_path / "one.invite"
    path.write_text(invite.to_toml())
    path.chmod(0o600)
    refused(cogen("join"), "an invite")
    refused(cogen("join", path, "--folder", tmp_path / "member"), "--data PATH")
    refused(cogen("join", "--folder", tmp_path / "member"), "a folder that cogen join made")
    refused(cogen("receipts", "--folder", tmp_path / "member"), "a folder that cogen join made")


def test_receipts_of_a_member_are_printed(cogen: Cogen, home: NodeHome, invite: Invite) -> None:
    home.write_member(member_of(invite, DATA))
    assert cogen("receipts", "--folder", home.path)[1] == "nothing has left domain 'grid'\n"
    record(home.receipts, "ab12", 1, "train", SentMessage({"factors": {"q.a": np.ones((2, 3), np.float32)}}))
    out = cogen("receipts", "--folder", home.path)[1]
    assert "1 messages, 24 bytes" in out
    assert json.loads(cogen("receipts", "--folder", home.path, "--json")[1])["num_bytes"] == 24


def test_a_key_that_is_still_held_is_not_a_refusal(home: NodeHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red: every death before the connection counts, and a node whose SuperNode was killed gives up."""
    said = "[code: 2004] Failed to activate SuperNode.\nThe SuperNode could not establish a connection.\n"
    home.make()
    home.ca.write_text("its authority")
    monkeypatch.setattr("cogen.deploy.join.greet", lambda *args: None)
    log = home.logs / "supernode.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    told: list[str] = []
    log.write_text(said)
    assert not was_refused(some_member(), home, told.append)
    log.write_text(said + "Client error '404 Not Found'\n" + "x" * 600)
    assert not was_refused(some_member(), home, told.append)  # a corrupt coordinator; the node goes on
    log.write_text(said + "x" * 600 + f"\n{REFUSED_KEY}\n")
    assert was_refused(some_member(), home, told.append)
    log.write_text(f"{REFUSED_KEY}\n{said}")
    assert not was_refused(some_member(), home, told.append)
    assert not told


def test_a_clock_that_went_off_after_joining_is_said(gateway: StubGateway, home: NodeHome, invite: Invite) -> None:
    """Flower's node says nothing but 401. Red: the node is taken for a stranger, or ends again and again without a word."""
    member = member_of(invite, DATA)
    join(invite, member, home)
    told: list[str] = []
    (home.logs / "supernode.log").write_text(f"{REFUSED_KEY}\nSuperNode terminated gracefully.\n")
    gateway.ahead_seconds = 3600.0
    assert not was_refused(member, home, told.append)
    assert len(told) == 1
    assert re.search("got one (359.|3600) s behind it .* Set this machine's clock", told[0])
    gateway.ahead_seconds = 0.0
    assert was_refused(member, home, told.append)
    assert len(told) == 1
