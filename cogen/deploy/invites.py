"""Invites: a TOML file for one domain that can be used once, until it expires.

Anybody with the invite can join as its domain, so send it in a way that both sides trust. The coordinator keeps only a
hash of its token, with the domain and the expiry date. The field `check` shows the domain whether a field was altered.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cogen.adapter import Fingerprint
from cogen.config import DOMAIN_PATTERN
from cogen.deploy.folder import FederationFolder, locked, utc_now
from cogen.errors import EnrolmentError, FederationError
from cogen.node.round_spec import RoundSpec
from cogen.records import Record, Table, read_toml, validated

TOKEN_BYTES = 32
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class InviteFingerprint(Table):
    """Fingerprint of the base that a domain must have."""

    weights: Digest
    tokenizer: Digest
    modules: Digest


class Invite(Table):
    """The content of one invite; `check` is the HMAC-SHA256 of all other fields, with the token as its key."""

    format: Literal[1]
    federation: Annotated[str, Field(min_length=1, max_length=64)]
    address: str
    domain: str = Field(pattern=DOMAIN_PATTERN)
    base: Annotated[str, Field(min_length=1)]
    app_sha256: Digest
    expires: datetime
    token: str = Field(pattern=r"^[A-Za-z0-9_-]{43}$")
    check: Digest
    ca: str
    fingerprint: InviteFingerprint
    round: RoundSpec | None = None
    """The work of a round; None in an invite of an earlier version."""

    @property
    def base_fingerprint(self) -> Fingerprint:
        """The fingerprint to compare with that of the base on this machine."""
        return Fingerprint(**self.fingerprint.model_dump())

    def require_current(self) -> None:
        """Raise EnrolmentError if the invite has expired."""
        if datetime.now(UTC) > self.expires:
            raise _refused("an invite that is still open", f"one that ended {self.expires.isoformat()}")

    def to_toml(self) -> str:
        """The text of the invite file."""
        import tomli_w

        return tomli_w.dumps(_plain(self), multiline_strings=True)


@dataclass(frozen=True)
class Issued:
    """What the coordinator keeps of an invite.

    Args:
        sha256: hash of the token.
        state: "void" if a later invite for the same domain was made.
    """

    sha256: str
    domain: str
    made: str
    expires: str
    state: Literal["open", "used", "void"] = "open"


class InvitesFile(Record):
    """`invites.json`: every invite that the coordinator has made."""

    file_name = "invites.json"
    error = FederationError
    fix = "Use the version of cogen that wrote it, or restore it from a backup."

    format: Literal[1] = 1
    invites: tuple[Issued, ...]


def make_invite(
    folder: FederationFolder,
    *,
    federation: str,
    address: str,
    domain: str,
    base: str,
    fingerprint: Fingerprint,
    app_sha256: str,
    days: float,
    round: RoundSpec | None = None,
) -> Invite:
    """Make an invite; earlier open invites for the domain become void."""
    token = base64.urlsafe_b64encode(secrets.token_bytes(TOKEN_BYTES)).decode().rstrip("=")
    expires = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
    blank = Invite(
        format=1,
        federation=federation,
        address=address,
        domain=domain,
        base=base,
        app_sha256=app_sha256,
        expires=expires,
        token=token,
        check="0" * 64,
        ca=folder.ca.read_text("utf-8"),
        fingerprint=InviteFingerprint(**vars(fingerprint)),
        round=round,
    )
    with locked(folder.invites):
        earlier = [replace(i, state="void") if _same_open(i, domain) else i for i in _read(folder)]
        _write(folder, [*earlier, Issued(_digest(token), domain, utc_now(), expires.isoformat())])
    return blank.model_copy(update={"check": _check(blank)})


def read_invite(path: str | Path) -> Invite:
    """Read an invite and check that no field was altered. `require_current` checks that it has not expired.

    Raises:
        ConfigError: the file is missing, is not TOML, or has other fields than an invite.
        EnrolmentError: the invite was altered after it was made.
    """
    invite = validated(Invite, read_toml(Path(path)), str(path))
    if not hmac.compare_digest(invite.check, _check(invite)):
        raise _refused("the invite as the coordinator made it", "one that was altered", str(path))
    return invite


def find_issued(folder: FederationFolder, token: str, *, used: bool = False) -> Issued:
    """The open invite with this token. All kept hashes are compared, each in constant time.

    Args:
        used: also return an invite that was used.
    Raises:
        EnrolmentError: the token is unknown, or its invite was used, is void or has expired.
    """
    digest, found = _digest(token), None
    for issued in _read(folder):
        if hmac.compare_digest(issued.sha256, digest):
            found = issued
    if found is None:
        raise _refused("an invite of this federation", "one that is not known here")
    if used and found.state == "used":
        return found
    if found.state != "open":
        got = {"used": "one that was used", "void": "one that a later invite replaced"}[found.state]
        raise _refused("an invite that is still open", got)
    if datetime.now(UTC) > datetime.fromisoformat(found.expires):
        raise _refused("an invite that is still open", f"one that ended {found.expires}")
    return found


def open_domain(folder: FederationFolder, token: str) -> str | None:
    """The domain of the open invite with this token; None if there is none."""
    try:
        return find_issued(folder, token).domain
    except EnrolmentError:
        return None


def mark_used(folder: FederationFolder, issued: Issued) -> None:
    """Mark an invite as used; the caller holds the lock on `folder.invites`."""
    _write(folder, [replace(i, state="used") if i.sha256 == issued.sha256 else i for i in _read(folder)])


def open_invites(folder: FederationFolder) -> dict[str, Issued]:
    """Invites that can still be used, by domain."""
    now = datetime.now(UTC)
    return {i.domain: i for i in _read(folder) if i.state == "open" and now <= datetime.fromisoformat(i.expires)}


def _same_open(issued: Issued, domain: str) -> bool:
    return issued.domain == domain and issued.state == "open"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _plain(invite: Invite) -> dict[str, object]:
    return {**invite.model_dump(exclude_none=True), "expires": invite.expires.isoformat()}


def _check(invite: Invite) -> str:
    fields = {k: v for k, v in _plain(invite).items() if k not in ("token", "check")}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hmac.new(invite.token.encode(), text.encode(), hashlib.sha256).hexdigest()


def _read(folder: FederationFolder) -> tuple[Issued, ...]:
    found = InvitesFile.load_if_present(folder.invites)
    return found.invites if found else ()


def _write(folder: FederationFolder, issued: Iterable[Issued]) -> None:
    InvitesFile(invites=tuple(issued)).write(folder.invites, private=True)


def _refused(expected: str, got: str, where: str = "") -> EnrolmentError:
    return EnrolmentError(
        "cannot use the invite",
        expected=expected,
        got=got,
        where=where,
        fix="Ask the coordinator for a new one (`cogen invite DOMAIN`).",
    )
