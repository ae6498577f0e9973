"""Members: one per domain, revoked ones kept separately, concurrent changes."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import pytest

from cogen.deploy.folder import FederationFolder
from cogen.deploy.members import Member, add_member, all_members, mark_seen, read_members, revoke_member
from cogen.errors import FederationError


def member(domain: str, node_id: int = 7) -> Member:
    return Member(domain, f"ecdsa-sha2-nistp384 {domain}", node_id, "2026-01-01T00:00:00+00:00")


def test_a_folder_without_members_has_none(tmp_path: Path) -> None:
    assert read_members(tmp_path) == {}


def test_members_come_back_by_domain(tmp_path: Path) -> None:
    largest = 2**64 - 1  # Flower's ids are unsigned 64-bit numbers
    for one in (member("grid", largest), member("clinical")):
        add_member(tmp_path, one)
    assert read_members(tmp_path) == {"clinical": member("clinical"), "grid": member("grid", largest)}
    values = json.loads((tmp_path / "members.json").read_text())
    assert values["format"] == 1
    assert [m["domain"] for m in values["members"]] == ["clinical", "grid"]


def test_a_domain_has_one_member_until_it_is_revoked(tmp_path: Path) -> None:
    add_member(tmp_path, member("grid"))
    with pytest.raises(FederationError, match=r"expected no member for domain 'grid'.*cogen revoke grid"):
        add_member(tmp_path, member("grid", 8))
    revoke_member(tmp_path, "grid")
    assert read_members(tmp_path) == {}
    assert all_members(tmp_path)["grid"].revoked is not None
    add_member(tmp_path, member("grid", 8))
    assert read_members(tmp_path)["grid"].node_id == 8


def test_revoking_twice_or_nobody_is_refused(tmp_path: Path) -> None:
    add_member(tmp_path, member("grid"))
    add_member(tmp_path, member("clinical"))
    with pytest.raises(FederationError, match="expected one of clinical, grid, got 'gird'"):
        revoke_member(tmp_path, "gird")
    revoke_member(tmp_path, "grid")
    with pytest.raises(FederationError, match="expected one of clinical, got 'grid', revoked"):
        revoke_member(tmp_path, "grid")


def test_last_seen_changes_nothing_else(tmp_path: Path) -> None:
    add_member(tmp_path, member("grid"))
    add_member(tmp_path, member("clinical"))
    mark_seen(tmp_path, {"grid": "2026-02-02T00:00:00+00:00", "stranger": "2026-02-02T00:00:00+00:00"})
    assert set(all_members(tmp_path)) == {"clinical", "grid"}
    assert read_members(tmp_path)["grid"].last_seen == "2026-02-02T00:00:00+00:00"
    assert read_members(tmp_path)["clinical"] == member("clinical")


def test_changes_at_once_lose_none(tmp_path: Path) -> None:
    names = [f"d{i}" for i in range(12)]
    threads = [threading.Thread(target=add_member, args=(tmp_path, member(n))) for n in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(read_members(tmp_path)) == set(names)


def test_another_format_is_refused(tmp_path: Path) -> None:
    for text, problem in (
        ('{"format": 2, "members": []}', "expected format 1, got format 2"),
        ('{"members": []}', "expected format 1, got no format"),
        ("[]", "expected an object of format 1, got list"),
        ("{", "expected JSON in UTF-8, got"),
        ('{"format": 1, "members": [{"domain": "x"}]}', r"expected a field members\.0\.public_key, got none"),
    ):
        (tmp_path / "members.json").write_text(text)
        with pytest.raises(FederationError, match=rf"cannot read members\.json: {problem}.*from a backup"):
            read_members(tmp_path)


def test_the_folder_is_its_owners_alone(tmp_path: Path) -> None:
    folder = FederationFolder(tmp_path / "fed")
    with pytest.raises(FederationError, match="cogen serve"):
        folder.require()
    folder.create()
    add_member(folder.path, member("grid"))
    folder.write(folder.config, "x = 1\n")
    folder.require()
    for path in (folder.path, folder.link, folder.logs, folder.flwr_home):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    for path in (folder.members, folder.config):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
