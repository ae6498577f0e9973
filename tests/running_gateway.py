"""A gateway in front of a stub of SuperLink, both real uvicorn servers with TLS; and a domain's key."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import ec

from cogen.adapter import Fingerprint
from cogen.deploy.certificates import ensure_certificate, ensure_link_certificate
from cogen.deploy.enrolment import Terms
from cogen.deploy.folder import FederationFolder
from cogen.deploy.gateway import Gateway
from cogen.deploy.gateway_process import server_of
from cogen.deploy.invites import Invite, InviteFingerprint, make_invite
from cogen.deploy.limits import Limits
from cogen.flower.api_socket import api_socket
from cogen.node.channel import listen_at
from tests.ports import free_port

FINGERPRINT = Fingerprint("a" * 64, "b" * 64, "c" * 64)
APP = "d" * 64


class NodeKey:
    """A key made at a domain, and the headers that a Flower node signs with it."""

    def __init__(self, curve: ec.EllipticCurve | None = None) -> None:
        self.private = ec.generate_private_key(curve or ec.SECP384R1())
        public = self.private.public_key()
        self.line = public.public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH).decode()
        self.pem = public.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
        self.node_id = 0  # until it has joined

    def headers(self, at: datetime | None = None) -> dict[str, str]:
        stamp = (at or datetime.now(UTC)).isoformat()
        signature = self.private.sign(stamp.encode(), ec.ECDSA(hashes.SHA256()))
        encoded = {"flwr-public-key": self.pem, "flwr-signature": signature}
        return {**{k: base64.b64encode(v).decode() for k, v in encoded.items()}, "flwr-timestamp": stamp}


@dataclass
class Upstream:
    """A stub of SuperLink: keeps the requests, answers pull requests from `work` and `objects`, all others with `done`."""

    seen: list[tuple[str, str, int]] = field(default_factory=list)
    work: list[bytes] = field(default_factory=list)
    objects: list[bytes] = field(default_factory=list)
    answered: int = 0
    node_id: int = 1001
    headers: dict[str, str] = field(default_factory=dict)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        self.headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        self.seen.append((scope["method"], scope["path"], size))
        body = b"done"
        if scope["path"].endswith("pull-messages"):
            body = self.work.pop() if self.work else b""
            self.answered += 1
        if scope["path"].endswith("pull-object") and self.objects:
            body = self.objects.pop()
        if scope["path"].endswith("activate-node"):
            body = b"\x08" + bytes([0x80 | self.node_id & 0x7F, self.node_id >> 7])  # a varint in field 1
        headers = [(b"x-flower", b"yes"), (b"content-length", str(len(body)).encode()), (b"keep-alive", b"9")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@dataclass
class RunningGateway:
    """A running gateway."""

    folder: FederationFolder
    port: int
    upstream: Upstream
    gateway: Gateway
    registered: list[str]

    def client(self, **options: Any) -> httpx.Client:
        import ssl

        trusted = ssl.create_default_context(cafile=str(self.folder.ca))
        return httpx.Client(base_url=f"https://127.0.0.1:{self.port}", verify=trusted, trust_env=False, **options)

    def invite(self, domain: str, days: float = 7.0) -> Invite:
        return make_invite(
            self.folder,
            federation="care",
            address=f"127.0.0.1:{self.port}",
            domain=domain,
            base="tiny",
            fingerprint=FINGERPRINT,
            app_sha256=APP,
            days=days,
        )

    def enrol(self, invite: Invite, key: NodeKey, **changed: object) -> httpx.Response:
        asked = {"token": invite.token, "domain": invite.domain, "public_key": key.line, "app_sha256": APP}
        with self.client(timeout=30.0) as client:
            return client.post("/enrol", json={**asked, "fingerprint": vars(FINGERPRINT), **changed})

    def member(self, domain: str) -> NodeKey:
        """The key of a domain that has just joined."""
        key = NodeKey()
        answer = self.enrol(self.invite(domain), key)
        assert answer.status_code == 200, answer.text
        key.node_id = answer.json()["node_id"]
        return key


@contextmanager
def serving(server: uvicorn.Server, sockets: list[socket.socket] | None = None) -> Iterator[None]:
    """The server in a thread, until the block ends."""
    thread = threading.Thread(target=server.run, args=(sockets,), daemon=True)
    thread.start()
    until = time.monotonic() + 20.0
    while not server.started:
        assert thread.is_alive() and time.monotonic() < until
        time.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(20.0)
        assert not thread.is_alive()


@contextmanager
def running_gateway(
    place: Path, limits: Limits, register: Callable[[str], int] | None = None
) -> Iterator[RunningGateway]:
    """A gateway with its stub of SuperLink; `register` does what SuperLink does with a key."""
    folder = FederationFolder(place)
    folder.create()
    ensure_certificate(folder, "127.0.0.1")
    ensure_link_certificate(folder)
    registered: list[str] = []

    def take(line: str) -> int:
        time.sleep(0.3)  # Flower's own program takes longer; two at once must meet in here
        registered.append(line)
        return 1000 + len(registered)

    upstream, port, at = Upstream(), free_port(), api_socket(folder.flwr_home)
    link = uvicorn.Config(
        upstream,
        log_config=None,
        lifespan="off",
        ssl_certfile=folder.link / "server.pem",
        ssl_keyfile=folder.link / "server.key",
    )
    terms = Terms("care", APP, InviteFingerprint(**vars(FINGERPRINT)), register or take)
    gateway = Gateway(folder, at, terms, limits)
    with serving(uvicorn.Server(link), [listen_at(at)]), serving(server_of(gateway, "127.0.0.1", port)):
        yield RunningGateway(folder, port, upstream, gateway, registered)
