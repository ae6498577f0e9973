"""Check a member's key and its signature over the time before the gateway reads the body of a request.

SuperLink checks both again. The check here keeps strangers away from SuperLink and refuses a revoked key at once.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cogen.deploy.folder import FederationFolder, utc_now
from cogen.deploy.members import mark_seen, read_members
from cogen.errors import EnrolmentError
from cogen.flower.fleet_requests import Sender

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

KEY_HEADER, SIGNATURE_HEADER, TIME_HEADER = "flwr-public-key", "flwr-signature", "flwr-timestamp"
WINDOW_SECONDS, AHEAD_SECONDS = 300.0, 60.0


def parse_key(line: str) -> ec.EllipticCurvePublicKey:
    """A member's key from its OpenSSH line.

    Raises:
        EnrolmentError: the line is not a P-384 key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        key = load_ssh_public_key(line.encode())
        got = type(key).__name__
        if isinstance(key, ec.EllipticCurvePublicKey):
            got = key.curve.name
            if isinstance(key.curve, ec.SECP384R1):
                return key
    except (ValueError, UnsupportedAlgorithm) as error:
        got = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise EnrolmentError(
        "cannot enrol",
        expected="a P-384 public key in OpenSSH format",
        got=got,
        fix="Use the same version of cogen on both sides.",
    )


def key_line(key: ec.EllipticCurvePublicKey) -> str:
    """A key as one OpenSSH line."""
    from cryptography.hazmat.primitives import serialization as s

    return key.public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH).decode()


class KnownKeys:
    """Members' keys, read again when `members.json` changes, and the time at which each member was last seen."""

    def __init__(self, folder: FederationFolder, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._folder, self._now = folder, now
        self._stamp: tuple[int, int] | None = None
        self._known: dict[bytes, tuple[Sender, ec.EllipticCurvePublicKey]] = {}
        self._seen: dict[str, str] = {}

    def sender_of(self, headers: Mapping[str, str]) -> Sender | None:
        """The member whose key signed the headers just now; None for strangers and revoked members."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        try:
            claimed = base64.b64decode(headers[KEY_HEADER], validate=True)
            signature = base64.b64decode(headers[SIGNATURE_HEADER], validate=True)
            time = headers[TIME_HEADER]
            sender, key = self._keys()[claimed]
            age = (self._now() - datetime.fromisoformat(time)).total_seconds()
            if not -AHEAD_SECONDS < age < WINDOW_SECONDS:
                return None
            key.verify(signature, time.encode("ascii"), ec.ECDSA(hashes.SHA256()))
        except (KeyError, ValueError, TypeError, binascii.Error, InvalidSignature):
            return None
        self._seen[sender.domain] = utc_now()
        return sender

    def write_seen(self) -> None:
        """Save in `members.json` which members were seen since the last call."""
        seen, self._seen = self._seen, {}
        if seen:
            mark_seen(self._folder.path, seen)

    def _keys(self) -> dict[bytes, tuple[Sender, ec.EllipticCurvePublicKey]]:
        from cryptography.hazmat.primitives import serialization as s

        try:
            stat = self._folder.members.stat()
        except FileNotFoundError:
            return {}
        if self._stamp != (stamp := (stat.st_ino, stat.st_mtime_ns)):
            self._known = {}
            for member in read_members(self._folder.path).values():
                key = parse_key(member.public_key)
                pem = key.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
                self._known[pem] = Sender(member.domain, member.node_id, pem), key
            self._stamp = stamp
        return self._known
