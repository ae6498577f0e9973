"""Certificates: a strict client accepts them for the right names only; the same authority renews them."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from cogen.deploy import certificates
from cogen.deploy.certificates import ensure_certificate, ensure_link_certificate, take_certificate
from cogen.deploy.folder import FederationFolder
from cogen.deploy.members import Member, add_member
from cogen.errors import FederationError

STRICT = ssl.VERIFY_X509_STRICT


def accepted(certificate: Path, key: Path, ca: Path, host: str) -> bool:
    """Whether a client with the strictest checks that Python has shakes hands."""
    client = ssl.create_default_context(cafile=str(ca))
    client.verify_flags |= STRICT
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(down, up, server_hostname=host), server.wrap_bio(up, down, server_side=True)]
    done = set()
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
    return len(done) == 2


@pytest.fixture
def folder(tmp_path: Path) -> FederationFolder:
    made = FederationFolder(tmp_path / "fed")
    made.create()
    return made


@pytest.mark.parametrize("host", ["fed.example.org", "192.0.2.7"])
def test_accepted_for_the_public_name_and_locally_and_for_no_other(folder: FederationFolder, host: str) -> None:
    assert ensure_certificate(folder, host)
    for name in (host, "localhost", "127.0.0.1"):
        assert accepted(folder.server, folder.server_key, folder.ca, name), name
    assert not accepted(folder.server, folder.server_key, folder.ca, "other.example.org")
    ensure_link_certificate(folder)
    assert accepted(folder.link / "server.pem", folder.link / "server.key", folder.link / "ca.pem", "127.0.0.1")
    assert not accepted(folder.link / "server.pem", folder.link / "server.key", folder.ca, "127.0.0.1")
    for path in (folder.ca_key, folder.server_key, folder.link / "ca.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_kept_while_it_is_good_and_renewed_by_the_same_authority(
    folder: FederationFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_certificate(folder, "fed.example.org")
    ca, first = folder.ca.read_bytes(), folder.server.read_bytes()
    known = x509.load_pem_x509_certificate(first)
    days = (known.not_valid_after_utc - datetime.now(UTC)) / timedelta(days=1)
    assert 729 < days < 731
    assert not ensure_certificate(folder, "fed.example.org")
    assert folder.server.read_bytes() == first
    monkeypatch.setattr(certificates, "RENEW_DAYS", 731)  # as if it were to end in less than a month
    assert ensure_certificate(folder, "fed.example.org")
    assert folder.server.read_bytes() != first
    assert folder.ca.read_bytes() == ca
    assert accepted(folder.server, folder.server_key, folder.ca, "fed.example.org")


def test_another_address_gets_another_certificate_of_the_same_authority(folder: FederationFolder) -> None:
    ensure_certificate(folder, "old.example.org")
    ca = folder.ca.read_bytes()
    assert ensure_certificate(folder, "new.example.org")
    assert folder.ca.read_bytes() == ca
    assert accepted(folder.server, folder.server_key, folder.ca, "new.example.org")
    assert not accepted(folder.server, folder.server_key, folder.ca, "old.example.org")


def test_the_operators_own_is_taken_when_a_client_would_accept_it(folder: FederationFolder, tmp_path: Path) -> None:
    theirs = FederationFolder(tmp_path / "theirs")
    theirs.create()
    ensure_certificate(theirs, "fed.example.org")
    ensure_certificate(folder, "fed.example.org")
    given = (theirs.server, theirs.server_key, theirs.ca)
    with pytest.raises(FederationError, match=r"accepts for other.example.org.*--ca"):
        take_certificate(folder, "other.example.org", *given)
    with pytest.raises(FederationError, match="cannot use the certificate"):
        take_certificate(folder, "fed.example.org", theirs.server, theirs.server_key, None)  # does not hold its CA
    with pytest.raises(FederationError, match="cannot use the certificate"):
        take_certificate(folder, "fed.example.org", theirs.server, folder.server_key, theirs.ca)  # another's key
    take_certificate(folder, "fed.example.org", *given)
    assert accepted(folder.server, folder.server_key, theirs.ca, "fed.example.org")
    before = folder.server.read_bytes()
    assert not ensure_certificate(folder, "fed.example.org")
    assert folder.server.read_bytes() == before
    with pytest.raises(FederationError, match=r"accepts for moved\.example\.org"):
        ensure_certificate(folder, "moved.example.org")


def test_the_authority_does_not_change_under_members(folder: FederationFolder, tmp_path: Path) -> None:
    ensure_certificate(folder, "fed.example.org")
    add_member(folder.path, Member("grid", "key", 1, "2026-01-01T00:00:00+00:00"))
    theirs = FederationFolder(tmp_path / "theirs")
    theirs.create()
    ensure_certificate(theirs, "fed.example.org")
    before = folder.ca.read_bytes()
    with pytest.raises(FederationError, match="expected the one that members were invited with"):
        take_certificate(folder, "fed.example.org", theirs.server, theirs.server_key, theirs.ca)
    assert folder.ca.read_bytes() == before
