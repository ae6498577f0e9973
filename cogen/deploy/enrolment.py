"""Enrolment at the coordinator: check the token of an invite, the domain's key, its app and its base model."""

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
    """What a domain must have to join.

    Args:
        name: name of the federation.
        register: registers a key at SuperLink and returns the node's id.
    """

    name: str
    app_sha256: str
    fingerprint: InviteFingerprint
    register: Callable[[str], int]


def enrol(folder: FederationFolder, request: Enrolment, terms: Terms) -> int:
    """Enrol a domain. The token counts as used only after everything else is done.

    A request with the same token and key as before gets the same answer, because the first answer may have been lost.

    Returns: the id of the domain's node.
    Raises:
        EnrolmentError: the token, domain, app, base or key is wrong; the error says which.
    """
    find_issued(folder, request.token, used=True)  # a stranger must not get to hold the lock
    with locked(folder.invites):
        issued = find_issued(folder, request.token, used=True)
        line = key_line(parse_key(request.public_key))  # without a comment, which could hold anything
        joined = read_members(folder.path).get(request.domain)
        if joined is not None and joined.public_key == line and issued.domain == request.domain:
            return joined.node_id
        issued = find_issued(folder, request.token)
        _require(
            "the domain that the invite is for", issued.domain, request.domain, "Ask the coordinator for a new one."
        )
        _require("app", terms.app_sha256, request.app_sha256, "Install the coordinator's version of cogen-ai.")
        for part, here in terms.fingerprint.model_dump().items():
            _require(f"base {part}", here, getattr(request.fingerprint, part), "Use the base that the invite names.")
        members = all_members(folder.path)
        require_free(members, issued.domain)
        if any(m.public_key == line for m in members.values()):
            raise EnrolmentError(
                "cannot enrol",
                expected="a new key",
                got="one that a member has used",
                fix="Delete the node's folder, so that `cogen join` makes a new key, and join again.",
            )
        node_id = terms.register(line)
        add_member(folder.path, Member(issued.domain, line, node_id, utc_now()))
        mark_used(folder, issued)
    return node_id


def _require(what: str, expected: str, got: str, fix: str) -> None:
    if expected != got:
        wanted, found = (v[:12] if len(v) == 64 else repr(v) for v in (expected, got))
        raise EnrolmentError("cannot enrol", expected=f"{what} {wanted}", got=found, fix=fix)
