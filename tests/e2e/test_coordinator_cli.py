"""`cogen invite`, `nodes`, `revoke` and `run` on a federation's folder, without anything that serves."""

from __future__ import annotations

import json
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
    assert code == 0
    assert "an invite for grid, open until" in err
    assert str(tmp_path) not in out
    assert str(tiny_folder.parent) not in out
    path = tmp_path / "grid.invite"
    path.write_text(out)
    invite = read_invite(path)
    assert (invite.federation, invite.address, invite.domain) == ("care", "fed.example.org:9443", "grid")
    assert invite.base_fingerprint == describe_base(str(tiny_folder)).fingerprint
    assert invite.app_sha256 == installed_app_sha256()
    assert invite.ca == folder.ca.read_text()
    assert find_issued(folder, invite.token).domain == "grid"


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
