"""The gateway as its own process: `python -m cogen.deploy.gateway_process FOLDER BIND`.

BIND is the public address and port. Requests are logged in `logs/gateway.log`;
older logs are compressed in the same folder.
"""

from __future__ import annotations

import gzip
import logging
import os
import resource
import shutil
import socket
import ssl
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogen.deploy.about import read_about, split_address
from cogen.deploy.connections import listen
from cogen.deploy.enrolment import Terms
from cogen.deploy.folder import FederationFolder
from cogen.deploy.gateway import Gateway
from cogen.deploy.invites import InviteFingerprint
from cogen.deploy.limits import Limits, timed_protocol
from cogen.flower.api_socket import api_socket
from cogen.flower.bundle import installed_app_sha256
from cogen.flower.patches import apply_or_exit
from cogen.flower.superlink_client import SuperLinkClient

if TYPE_CHECKING:
    import uvicorn

OPEN_FILES = 8192
LOG_BYTES, LOG_FILES = 100_000, 200  # a compressed log has a twelfth of the size


def terms_of(folder: FederationFolder) -> Terms:
    """What a domain must have to join the federation in `folder`."""
    from cogen.base import describe_base
    from cogen.config import load_config

    base = describe_base(load_config(folder.config).base.name)
    superlink_client = SuperLinkClient(folder.flwr_home, folder.logs)
    fingerprint = InviteFingerprint(**vars(base.fingerprint))
    return Terms(read_about(folder).name, installed_app_sha256(), fingerprint, superlink_client.register)


def server_of(gateway: Gateway, host: str, port: int) -> uvicorn.Server:
    """uvicorn with TLS 1.2 or later and with limits from the accepted connection on.

    Headers that claim another peer address are ignored.
    """
    import uvicorn

    def tls(config: uvicorn.Config, default: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(gateway.folder.server, gateway.folder.server_key)
        return context

    config = uvicorn.Config(
        gateway,
        http=timed_protocol(gateway.limits.header_seconds, gateway.connections.established),
        ws="none",
        lifespan="on",
        loop="asyncio",  # uvloop buffers up to 8 MB of an answer before it waits
        ssl_context_factory=tls,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=3,
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets or [listen(gateway.connections, host, port)])

        def handle_exit(self, sig: int, frame: Any) -> None:
            gateway.stopping.set()  # answers the nodes that wait for work
            super().handle_exit(sig, frame)

    return Server(config)


def packed_log(path: Path) -> RotatingFileHandler:
    """A handler that writes to `path` and keeps up to LOG_FILES older logs as `<path>.1.gz`, `<path>.2.gz` ..."""
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES)
    handler.namer, handler.rotator = lambda name: f"{name}.gz", _pack
    return handler


def _pack(source: str, packed: str) -> None:
    """Compress a log. On a full disk it is renamed without compression (`zcat -f` reads both)."""
    try:
        with open(source, "rb") as old, open(packed, "xb") as file, gzip.open(file, "wb") as new:
            shutil.copyfileobj(old, new)
        Path(source).unlink()
    except OSError:
        os.replace(source, packed)


def raise_file_limit() -> None:
    """Allow OPEN_FILES open files where the system lets a process; 1,024 are few for 50 members."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> int:
    """Serve until SIGTERM."""
    raise_file_limit()
    apply_or_exit("gateway_header_seconds")
    place, bind = sys.argv[1:]
    folder = FederationFolder(place)
    handler = packed_log(folder.logs / "gateway.log")
    logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    gateway = Gateway(folder, api_socket(folder.flwr_home), terms_of(folder), Limits())
    server_of(gateway, *split_address(bind)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
