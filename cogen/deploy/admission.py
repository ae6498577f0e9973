"""Enrolment at a domain: reach the coordinator by TLS, make a key pair, and send the public key with the token."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from cogen.errors import FederationError
from cogen.node.home import NodeHome, write_private

if TYPE_CHECKING:
    import httpx

    from cogen.deploy.invites import Invite

# Flower refuses a signature that is older or further in the future than this.
MAX_BEHIND_SECONDS, MAX_AHEAD_SECONDS = 300.0, 5.0
TIMEOUT_SECONDS = 30.0
ENROL_SECONDS = 120.0


def greet(address: str, ca: str, timeout_seconds: float = TIMEOUT_SECONDS) -> float:
    """Reach the gateway by TLS and compare clocks. Proxies in the environment are used.

    Args:
        ca: PEM of the only certificate authority to trust.
    Returns: seconds by which this machine's clock is ahead.
    Raises:
        ClocksApart: the difference is so large that Flower would refuse this machine's signatures.
        FederationError: the gateway cannot be reached, has a certificate of another authority, or is no gateway.
    """
    sent = datetime.now(UTC)
    answer = _request("GET", address, "/health", ca, timeout_seconds)
    if answer.status_code != 200:
        raise _not_joined(
            "the coordinator's gateway", f"status {answer.status_code}", address, "Check the invite's address."
        )
    date = answer.headers.get("date")
    if date is None:
        return 0.0
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return 0.0
    ahead = (
        (sent - theirs).total_seconds() - 1.0,
        (datetime.now(UTC) - theirs).total_seconds(),
    )  # least and most possible difference
    if ahead[0] > MAX_AHEAD_SECONDS or -ahead[1] > MAX_BEHIND_SECONDS:
        side = f"{ahead[1]:.0f} s ahead of" if ahead[0] > 0 else f"{-ahead[1]:.0f} s behind"
        expected = (
            f"a clock less than {MAX_BEHIND_SECONDS:g} s behind the coordinator's and {MAX_AHEAD_SECONDS:g} s ahead"
        )
        fix = "Set this machine's clock (NTP)."
        raise ClocksApart("cannot join", expected=expected, got=f"one {side} it", where=address, fix=fix)
    return ahead[1]


def enrol(invite: Invite, home: NodeHome, app_sha256: str) -> None:
    """Send the public key with the invite's token, so that the coordinator adds this domain as a member.

    Raises:
        FederationError: the coordinator refuses or cannot be reached.
    """
    request = {
        "token": invite.token,
        "domain": invite.domain,
        "public_key": home.public_key.read_text("utf-8").strip(),
        "app_sha256": app_sha256,
        "fingerprint": vars(invite.base_fingerprint),
    }
    answer = _request("POST", invite.address, "/enrol", invite.ca, ENROL_SECONDS, json=request)
    if answer.status_code != 200:
        raise EnrolmentRefused(
            "the coordinator refused",
            expected="an accepted invite",
            got=_reason(answer),
            where=invite.address,
            fix="Ask the coordinator for a new invite.",
        )


class ClocksApart(FederationError):
    """This machine's clock and the coordinator's are too far apart."""


class EnrolmentRefused(FederationError):
    """The coordinator refused the enrolment."""


def make_key(home: NodeHome) -> None:
    """Make an ECDSA P-384 key pair in OpenSSH format. Only this user can read the private key; it is never sent."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = ec.generate_private_key(ec.SECP384R1())
    write_private(home.key, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    write_private(home.public_key, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n")


def _request(method: str, address: str, path: str, ca: str, seconds: float, **options: Any) -> httpx.Response:
    import httpx

    try:
        context = ssl.create_default_context(cadata=ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        with httpx.Client(verify=context, timeout=seconds) as client:
            return client.request(method, f"https://{address}{path}", **options)
    except ssl.SSLError as error:
        raise _not_joined("the invite's CA as PEM", str(error), address, "Ask for a new invite.") from None
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            expected, fix = (
                "a certificate of the invite's CA",
                "Check the address; ask the coordinator for a new invite.",
            )
            if "not yet valid" in reason or "has expired" in reason:
                fix = "Set this machine's clock; if it is right, ask the coordinator for a new certificate."
            raise _not_joined(expected, reason.partition("] ")[2] or reason, address, fix) from None
        fix = "Check the network, a firewall or a proxy; `cogen doctor INVITE` says more."
        raise _not_joined("the coordinator to answer", reason, address, fix) from None


def _reason(answer: httpx.Response) -> str:
    try:
        values = answer.json()
        reason = next(str(values[k]) for k in ("error", "reason", "detail") if k in values)
    except (ValueError, TypeError, StopIteration):
        reason = "no reason"
    return f"status {answer.status_code}: {reason[:300]}"


def _not_joined(expected: str, got: str, where: str, fix: str) -> FederationError:
    return FederationError("cannot join", expected=expected, got=got, where=where, fix=fix)
