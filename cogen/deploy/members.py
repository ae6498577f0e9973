"""Who has joined: `members.json`, one entry a domain, with the key and the Flower node that speak for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cogen.deploy.folder import FederationFolder, locked, utc_now
from cogen.errors import EnrolmentError, FederationError

FORMAT = 1


@dataclass(frozen=True)
class Member:
    """A domain's node.

    Args:
        public_key: one OpenSSH line; its private half was made at the domain and has stayed there.
        node_id: Flower's; it authenticates the key, so it stands for the domain whatever a client says.
        enrolled, revoked, last_seen: ISO 8601, UTC.
    """

    domain: str
    public_key: str
    node_id: int
    enrolled: str
    revoked: str | None = None
    last_seen: str | None = None


def read_members(folder: Path) -> dict[str, Member]:
    """Members by domain, those not revoked, of the federation in `folder`.

    Raises:
        FederationError: `members.json` is of another format.
    """
    return {d: m for d, m in all_members(folder).items() if m.revoked is None}


def all_members(folder: Path) -> dict[str, Member]:
    """Members by domain, the revoked ones too.

    Raises:
        FederationError: `members.json` is of another format.
    """
    path = FederationFolder(folder).members
    try:
        values = json.loads(path.read_text("utf-8"))
        if values["format"] == FORMAT:
            return {m["domain"]: Member(**m) for m in values["members"]}
        got = f"format {values['format']!r}"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        got = f"{type(error).__name__}: {error}"
    raise FederationError(
        "cannot read the members",
        expected=f"members.json of format {FORMAT}",
        got=got,
        where=str(path),
        fix="Use the version of cogen that wrote it, or restore it from a backup.",
    )


def add_member(folder: Path, member: Member) -> None:
    """Enter a member; it takes the place of a revoked one of its domain.

    Raises:
        EnrolmentError: the domain has a member.
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
            fix=f"Run `cogen revoke {domain}` first, and invite it again.",
        )


def revoke_member(folder: Path, domain: str) -> Member:
    """Mark the domain's member as revoked; from here on the gateway refuses its key.

    Raises:
        FederationError: the domain has no member, or a revoked one.
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
    """Enter when members were last heard, by domain; others' entries stay as they are."""
    with locked(FederationFolder(folder).members):
        members = all_members(folder)
        _write(folder, [replace(m, last_seen=seen.get(d, m.last_seen)) for d, m in members.items()])


def _write(folder: Path, members: Iterable[Member]) -> None:
    rows = [asdict(m) for m in sorted(members, key=lambda m: m.domain)]
    place = FederationFolder(folder)
    place.write(place.members, json.dumps({"format": FORMAT, "members": rows}, indent=1) + "\n")
