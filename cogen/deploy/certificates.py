"""Certificates: the federation's own certificate authority and the servers that it signs, or the operator's own.

Elliptic keys (P-384 for the authority, P-256 for servers), with every extension that a strict verifier requires.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.deploy.folder import FederationFolder
from cogen.deploy.members import read_members
from cogen.errors import FederationError
from cogen.files import write_file

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

CA_YEARS, SERVER_YEARS, RENEW_DAYS = 10, 2, 30
LOCAL = ("localhost", "127.0.0.1")


def ensure_certificate(folder: FederationFolder, host: str) -> bool:
    """Make the gateway's certificate for `host`, or renew it with the same authority.

    An operator's certificate (there is no `ca.key` in the folder) is only checked.

    Returns: whether a certificate was written.
    Raises:
        FederationError: an operator's certificate has expired or is for another host.
    """
    if folder.ca.is_file() and not folder.ca_key.is_file():
        _require_accepted(folder.server, folder.server_key, folder.ca, host)
        return False
    return _ensure(folder.path, (host, *LOCAL))


def ensure_link_certificate(folder: FederationFolder) -> bool:
    """The same for Flower's SuperLink, with an authority that no domain trusts."""
    return _ensure(folder.link, LOCAL)


def take_certificate(folder: FederationFolder, host: str, certificate: Path, key: Path, ca: Path | None) -> None:
    """Use the operator's certificate instead of one that the federation signs.

    Args:
        certificate: PEM, followed by its intermediate certificates.
        ca: PEM of the authority that domains trust; None if `certificate` contains it.
    Raises:
        FederationError: a client would refuse the certificate, or members trust another authority.
    """
    _require_accepted(certificate, key, ca or certificate, host)
    trusted = (ca or certificate).read_text("utf-8")
    if folder.ca.is_file() and folder.ca.read_text("utf-8") != trusted and read_members(folder.path):
        raise FederationError(
            "cannot change the certificate authority",
            expected="the one that members were invited with",
            got=str(ca or certificate),
            where=str(folder.ca),
            fix="Revoke the members and invite them again, or use a certificate of the same authority.",
        )
    folder.ca_key.unlink(missing_ok=True)
    folder.write(folder.ca, trusted)
    folder.write(folder.server_key, key.read_text("utf-8"))
    folder.write(folder.server, certificate.read_text("utf-8"))


def _ensure(place: Path, names: tuple[str, ...]) -> bool:
    from cryptography import x509

    if not ((place / "ca.pem").is_file() and (place / "ca.key").is_file()):
        _make_authority(place)
    written = place / "server.pem"
    if written.is_file() and (place / "server.key").is_file():
        known = x509.load_pem_x509_certificate(written.read_bytes())
        left = known.not_valid_after_utc - datetime.now(UTC)
        signed_here = known.issuer == x509.load_pem_x509_certificate((place / "ca.pem").read_bytes()).subject
        if left > timedelta(days=RENEW_DAYS) and _names(names) == _names_of(known) and signed_here:
            return False
    _make_server(place, names)
    return True


def _make_authority(place: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP384R1())
    number = x509.random_serial_number()
    name = _name(f"CO-GEN federation {number:040x}"[:60])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    built = (
        _builder(name, name, key.public_key(), number, 365 * CA_YEARS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA384())
    )
    write_file(place / "ca.key", _key_pem(key), private=True)
    write_file(place / "ca.pem", _pem(built), private=True)


def _make_server(place: Path, names: tuple[str, ...]) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    ca = x509.load_pem_x509_certificate((place / "ca.pem").read_bytes())
    ca_key = serialization.load_pem_private_key((place / "ca.key").read_bytes(), password=None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    number = x509.random_serial_number()
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    built = (
        _builder(_name("CO-GEN gateway"), ca.subject, key.public_key(), number, 365 * SERVER_YEARS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(names)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    # Write the key first. A key without a certificate is replaced, but a certificate without its key would be kept.
    (place / "server.pem").unlink(missing_ok=True)
    write_file(place / "server.key", _key_pem(key), private=True)
    write_file(place / "server.pem", _pem(built), private=True)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, number: int, days: int
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(number)
        .not_valid_before(
            now - timedelta(days=1)
        )  # so a domain whose clock is hours behind gets an error about its clock
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(text: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _names(hosts: tuple[str, ...]) -> list[x509.GeneralName]:
    from cryptography import x509

    found: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            found.append(x509.IPAddress(ip_address(host)))
        except ValueError:
            found.append(x509.DNSName(host))
    return found


def _names_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    from cryptography import x509

    return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization as s

    return key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())


def _require_accepted(certificate: Path, key: Path, ca: Path, host: str) -> None:
    """Raise unless a client that trusts only `ca` accepts the certificate, by a TLS handshake in memory."""
    try:
        server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(ca))
        server.load_cert_chain(certificate, key)
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        sides = [client.wrap_bio(down, up, server_hostname=host), server.wrap_bio(up, down, server_side=True)]
        for _ in range(4):
            for side in sides:
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
    except (ssl.SSLError, OSError) as error:
        raise FederationError(
            "cannot use the certificate",
            expected=f"one that a client accepts for {host}",
            got=getattr(error, "verify_message", "") or str(error),
            where=str(certificate),
            fix="Name the certificate with its intermediate certificates, its key, and its authority with --ca.",
        ) from None
