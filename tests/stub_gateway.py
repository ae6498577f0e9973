"""A stub of the gateway over TLS for tests of the domain's side: /health and /enrol, with any clock and any refusal."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cogen.adapter import Fingerprint
from cogen.deploy.certificates import ensure_certificate
from cogen.deploy.folder import FederationFolder
from cogen.deploy.invites import Invite, make_invite
from cogen.node.round_spec import RoundSpec


class StubGateway:
    """The answers to give, and the requests received."""

    def __init__(self, folder: Path) -> None:
        self.folder = FederationFolder(folder)
        self.folder.create()
        ensure_certificate(self.folder, "localhost")
        self.asked: list[dict[str, Any]] = []
        self.ahead_seconds, self.refusal = 0.0, ""
        self.address = ""

    def invite(
        self, base: str, fingerprint: Fingerprint, app_sha256: str, days: float = 7.0, round: RoundSpec | None = None
    ) -> Invite:
        about = {"federation": "care", "address": self.address, "domain": "grid", "base": base}
        return make_invite(self.folder, **about, fingerprint=fingerprint, app_sha256=app_sha256, days=days, round=round)


@contextmanager
def running_stub(folder: Path) -> Iterator[StubGateway]:
    """A gateway on a free port of localhost."""
    gateway = StubGateway(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(200 if self.path == "/health" else 404, {"status": "ok"})

        def do_POST(self) -> None:
            gateway.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self._say(*((403, {"error": gateway.refusal}) if gateway.refusal else (200, {"node_id": 7})))

        def _say(self, status: int, values: dict[str, Any]) -> None:
            body = json.dumps(values).encode()
            self.send_response_only(status)
            self.send_header("Date", formatdate(time.time() + gateway.ahead_seconds, usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(gateway.folder.server, gateway.folder.server_key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    gateway.address = f"localhost:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield gateway
    finally:
        server.shutdown()
        server.server_close()
