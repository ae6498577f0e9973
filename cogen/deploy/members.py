"""`members.json`: the domains that have joined, each with its public key and its Flower node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cogen.deploy.folder import FederationFolder, locked, utc_now
from cogen.errors import EnrolmentError, FederationError
from cogen.records import Record


@dataclass(frozen=True)
class Member:
    """One domain that has joined. Times are ISO 8601 in UTC.

    Args:
        public_key: one OpenSSH line; the private key was made at the domain and stays there.
        node_id: id of the domain's Flower node. Flower authenticates the node by its key, so the id identifies the
            domain whatever a client claims.
        revoked: when the coordinator revoked the member.
        last_seen: when the gateway last received a message from the node.
    """

    domain: str
    public_key: str
    node_id: int
    enrolled: str
    revoked: str | None = None
    last_seen: str | None = None


class MembersFile(Record):
    """`members.json`: one member for each domain, sorted by domain."""

    file_name = "members.json"
    error = FederationError
    fix = "Use the version of cogen that wrote it, or restore it from a backup."

    format: Literal[1] = 1
    members: tuple[Member, ...]


def read_members(folder: Path) -> dict[str, Member]:
    """Members by domain, without revoked ones.

    Raises:
        FederationError: `members.json` cannot be used.
    """
    return {d: m for d, m in all_members(folder).items() if m.revoked is None}


def all_members(folder: Path) -> dict[str, Member]:
    """Members by domain, with revoked ones.

    Raises:
        FederationError: `members.json` cannot be used.
    """
    found = MembersFile.load_if_present(FederationFolder(folder).members)
    return {m.domain: m for m in found.members} if found else {}


def add_member(folder: Path, member: Member) -> None:
    """Add a member; it replaces a revoked member of the same domain.

    Raises:
        EnrolmentError: the domain has a member that is not revoked.
    """
    with locked(FederationFolder(folder).members):
        members = all_members(folder)
        require_free(members, member.domain)
        _write(folder, {**members, member.domain: member}.values())


def require_free(members: Mapping[str, Member], domain: str) -> None:
    """Raise EnrolmentError when `domain` has a member that is not revoked."""
    known = members.get(domain)
    if known is not None and known.revoked is None:
        raise EnrolmentError(
            "cannot add a member",
            expected=f"no member for domain {domain!r}",
            got=f"one that enrolled {known.enrolled}",
            fix=f"Run `cogen revoke {domain}` first, then invite the domain again.",
        )


def revoke_member(folder: Path, domain: str) -> Member:
    """Revoke the domain's member; from now on the gateway refuses its key.

    Raises:
        FederationError: the domain has no member, or its member is revoked already.
    """
    with locked(FederationFolder(folder).members):
        members = all_members(folder)
        known = members.get(domain)
        if known is None or known.revoked is not None:
            there = ", ".join(sorted(d for d, m in members.items() if m.revoked is None))
            raise FederationError(
                "cannot revoke",
                expected=f"one of {there}" if there else "a domain that has joined",
                got=repr(domain) if known is None else f"{domain!r}, revoked {known.revoked}",
                fix="`cogen nodes` shows who has joined.",
            )
        revoked = replace(known, revoked=utc_now())
        _write(folder, {**members, domain: revoked}.values())
    return revoked


def mark_seen(folder: Path, seen: Mapping[str, str]) -> None:
    """Record when the gateway last received a message, by domain; other members do not change."""
    with locked(FederationFolder(folder).members):
        members = all_members(folder)
        _write(folder, [replace(m, last_seen=seen.get(d, m.last_seen)) for d, m in members.items()])


def _write(folder: Path, members: Iterable[Member]) -> None:
    found = MembersFile(members=tuple(sorted(members, key=lambda m: m.domain)))
    found.write(FederationFolder(folder).members, private=True)
