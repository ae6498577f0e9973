"""Enrolment, at the coordinator: a token, a key, and proof that both sides hold one base and one app."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from cogen.deploy.folder import FederationFolder, locked, utc_now
from cogen.deploy.invites import InviteFingerprint, find_issued, mark_used
from cogen.deploy.known_keys import key_line, parse_key
from cogen.deploy.members import Member, add_member, all_members, read_members, require_free
from cogen.errors import EnrolmentError
from cogen.records import Table


class Enrolment(Table):
    """What a domain sends to join."""

    token: Annotated[str, Field(max_length=64)]
    domain: Annotated[str, Field(max_length=64)]
    public_key: Annotated[str, Field(max_length=1024)]
    app_sha256: Annotated[str, Field(max_length=64)]
    fingerprint: InviteFingerprint


@dataclass(frozen=True)
class Terms:
    """What a domain must hold to join.

    Args:
        name: of the federation.
        register: hands a key to SuperLink and returns the node's id.
    """

    name: str
    app_sha256: str
    fingerprint: InviteFingerprint
    register: Callable[[str], int]


def enrol(folder: FederationFolder, asked: Enrolment, terms: Terms) -> int:
    """Let a domain in; returns its node's id. All or nothing: the token is used up only when all else is done.

    Asked again with the token and the key that were let in, the answer is the same: the first may have been lost.

    Raises:
        EnrolmentError: says which of token, domain, app, base and key is not as it must be.
    """
    find_issued(folder, asked.token, used=True)  # Strangers are turned away before they can hold the lock.
    with locked(folder.invites):
        issued = find_issued(folder, asked.token, used=True)
        line = key_line(parse_key(asked.public_key))  # without a comment, which could hold anything
        joined = read_members(folder.path).get(asked.domain)
        if joined is not None and joined.public_key == line and issued.domain == asked.domain:
            return joined.node_id
        issued = find_issued(folder, asked.token)
        _require("the domain that the invite is for", issued.domain, asked.domain, "Ask the coordinator for a new one.")
        _require("app", terms.app_sha256, asked.app_sha256, "Install the coordinator's version of cogen-ai.")
        for part, here in terms.fingerprint.model_dump().items():
            _require(f"base {part}", here, getattr(asked.fingerprint, part), "Use the base that the invite names.")
        members = all_members(folder.path)
        require_free(members, issued.domain)
        if any(m.public_key == line for m in members.values()):
            raise EnrolmentError(
                "cannot enrol",
                expected="a key that was not used before",
                got="one that was",
                fix="Remove the node's folder, so that a new key is made, and join again.",
            )
        node_id = terms.register(line)
        add_member(folder.path, Member(issued.domain, line, node_id, utc_now()))
        mark_used(folder, issued)
    return node_id


def _require(what: str, expected: str, got: str, fix: str) -> None:
    if expected != got:
        shown = (v[:12] if len(v) == 64 else repr(v) for v in (expected, got))
        wanted, given = shown
        raise EnrolmentError("cannot enrol", expected=f"{what} {wanted}", got=given, fix=fix)
