"""`cogen invite`, `nodes`, `revoke` and `run` on a federation's folder, without anything that serves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cogen.base import describe_base
from cogen.config import load_config
from cogen.deploy.about import About
from cogen.deploy.certificates import ensure_certificate
from cogen.deploy.folder import FederationFolder
from cogen.deploy.invites import find_issued, read_invite
from cogen.deploy.members import Member, add_member, read_members
from cogen.flower.bundle import installed_app_sha256
from tests.shell import Cogen, refused

LONG_AGO = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def folder(tmp_path: Path, config_file: Path) -> FederationFolder:
    """As a first `cogen serve` leaves it."""
    made = FederationFolder(tmp_path / "fed")
    made.create()
    ensure_certificate(made, "fed.example.org")
    made.write(made.config, load_config(config_file).to_toml())
    About(name="care", public_address="fed.example.org:9443").write(made.about, private=True)
    return made


def test_an_invite_says_all_that_a_domain_needs_and_no_path(
    cogen: Cogen, folder: FederationFolder, tmp_path: Path, tiny_folder: Path
) -> None:
    code, out, err = cogen("invite", "grid", "--days", "3", "--folder", folder.path)
    assert (code, out) == (0, "grid.invite\n")
    assert "an invite for grid, open until" in err
    path = Path("grid.invite")
    assert str(tmp_path) not in path.read_text()
    assert str(tiny_folder.parent) not in path.read_text()
    invite = read_invite(path)
    assert (invite.federation, invite.address, invite.domain) == ("care", "fed.example.org:9443", "grid")
    assert invite.base_fingerprint == describe_base(str(tiny_folder)).fingerprint
    assert invite.app_sha256 == installed_app_sha256()
    assert invite.ca == folder.ca.read_text()
    assert find_issued(folder, invite.token).domain == "grid"


def test_only_its_owner_can_read_an_invite_whatever_the_umask(
    cogen: Cogen, folder: FederationFolder, tmp_path: Path
) -> None:
    """Red: a file that the shell makes, or a mode that is set after the content."""
    before = os.umask(0)
    try:
        for more in ((), ("--out", tmp_path / "sent" / "grid.toml")):
            path = Path(cogen("invite", "grid", "--folder", folder.path, *more)[1].strip())
            assert path.stat().st_mode & 0o777 == 0o600
            assert [p.name for p in path.parent.iterdir()] == [path.name]
    finally:
        os.umask(before)
    code, out, _ = cogen("invite", "grid", "--folder", folder.path, "--out", "-")
    assert code == 0 and not Path("-").exists()
    path.write_text(out)
    assert find_issued(folder, read_invite(path).token).domain == "grid"


def test_an_invite_replaces_only_this_federations_earlier_one(
    cogen: Cogen, folder: FederationFolder, tmp_path: Path
) -> None:
    """What is refused makes no earlier invite void. Red: any file is replaced, or the check comes after the invite."""
    command = ("invite", "grid", "--folder", folder.path)
    path = Path("grid.invite")
    cogen(*command)
    first = read_invite(path)
    cogen(*command)
    second = read_invite(path)
    assert second.token != first.token
    other = FederationFolder(tmp_path / "other")
    other.create()
    ensure_certificate(other, "fed.example.org")
    for name in ("config", "about"):
        other.write(getattr(other, name), getattr(folder, name).read_text())
    cogen("invite", "grid", "--folder", other.path, "--out", "theirs")
    cogen("invite", "clinical", "--folder", folder.path, "--out", "clinical.invite")
    Path("notes").write_text("a patient's")
    Path("folder").mkdir()
    for name, got in (("theirs", "'care'"), ("clinical.invite", "'clinical'"), ("notes", "else"), ("folder", "else")):
        refused(cogen(*command, "--out", name), "earlier invite for 'grid'", got, name)
    assert Path("notes").read_text() == "a patient's"
    assert find_issued(folder, second.token).state == "open"


def test_an_invite_for_nobody_or_for_who_is_in_is_refused(cogen: Cogen, folder: FederationFolder) -> None:
    refused(
        cogen("invite", "gird", "--folder", folder.path), "one of clinical, grid, materials", "Did you mean 'grid'?"
    )
    add_member(folder.path, Member("grid", "key", 5, LONG_AGO))
    refused(cogen("invite", "grid", "--folder", folder.path), "no member for domain 'grid'", "cogen revoke grid")


def test_nodes_and_revoke(cogen: Cogen, folder: FederationFolder) -> None:
    add_member(folder.path, Member("grid", "key", 5, LONG_AGO, last_seen=LONG_AGO))
    add_member(folder.path, Member("clinical", "key2", 6, LONG_AGO))
    cogen("invite", "materials", "--folder", folder.path)
    run = folder.run("first")
    run.append_event("client_replied", round=2, domain="grid", num_tokens=512)
    run.append_event("client_dropped", round=2, domain="clinical", reason="no reply")

    code, out, err = cogen("nodes", "--json", "--folder", folder.path)
    assert (code, err) == (0, "")
    shown = json.loads(out)
    rows = {row["domain"]: row for row in shown["domains"]}
    assert not shown["serving"]
    assert {d: r["state"] for d, r in rows.items()} == {"clinical": "away", "grid": "away", "materials": "invited"}
    assert rows["grid"]["last_did"] == "first, round 2: trained 512 tokens"
    assert rows["clinical"]["last_did"] == "first, round 2: dropped, no reply"
    assert rows["materials"]["invited_until"] > LONG_AGO

    code, out, err = cogen("revoke", "grid", "--folder", folder.path)
    assert (code, out) == (0, "")
    assert "revoked grid" in err
    assert set(read_members(folder.path)) == {"clinical"}
    code, out, _ = cogen("nodes", "--folder", folder.path)
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["domain", "state"],
        ["clinical", "away"],
        ["grid", "revoked"],
        ["materials", "invited"],
    ]
    refused(cogen("revoke", "grid", "--folder", folder.path), "expected one of clinical")


def test_a_run_needs_somebody_who_serves(cogen: Cogen, folder: FederationFolder, config_file: Path) -> None:
    refused(cogen("run", config_file, "--folder", folder.path), "nobody serves this federation")
    assert not list((folder.path / "runs").iterdir())
