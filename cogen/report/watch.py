"""The live page of a run: a small web server that sends the sections of the report, again when they change.

The browser gets an empty page that fetches nothing from elsewhere, and server-sent events: first all sections,
then those that changed. The run folder is read only while a page is open.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from cogen.errors import RunError
from cogen.report.fragments import POLL_SECONDS, Fragments
from cogen.report.html import template
from cogen.report.page import SECTIONS

PORT = 8420
QUIET_SECONDS = 15.0
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class PageAddress:
    """A socket that listens, the address to open in the browser, and the token, which is empty on loopback."""

    listener: socket.socket
    url: str
    token: str


def open_address(host: str, port: int | None) -> PageAddress:
    """Listen on a port; make up a token unless the host is loopback.

    Args:
        port: None takes the usual one, or any free one if that is taken.
    Raises:
        RunError: no such host, or the port is taken.
    """
    listener = _listen(host, PORT if port is None else port, or_any=port is None)
    token = "" if _is_loopback(host) else secrets.token_urlsafe(24)
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
    name = f"[{shown}]" if ":" in shown else shown
    query = f"?token={token}" if token else ""
    return PageAddress(listener, f"http://{name}:{listener.getsockname()[1]}/{query}", token)


def make_server(run: Path, address: PageAddress) -> uvicorn.Server:
    """A server for the page of `run`, a folder that may not exist yet; `run` starts it."""
    app = watch_app(Fragments(run), address.token, lambda: server.should_exit)
    # The commands print what matters to the user; uvicorn's own lines would break their progress bars.
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", ws="none", access_log=False, log_level="error"))
    return server


@contextmanager
def watching(run: Path, address: PageAddress) -> Iterator[None]:
    """Serve the page from a thread while the block runs; open pages get the last state before the server stops."""
    server = make_server(run, address)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [address.listener]}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=10 * POLL_SECONDS)


def watch_app(fragments: Fragments, token: str, is_stopping: Callable[[], bool]) -> Starlette:
    """Three addresses: the page, its events, and report.html once it exists.

    Args:
        token: every request must carry it. If empty, the request must name a loopback host instead, so that a
            web site that points its own name at this machine cannot read the page through the user's browser.
    """

    async def page(request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        policy = f"default-src 'none'; connect-src 'self'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'"
        policy += "; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        sections = dict.fromkeys(SECTIONS, "")
        html = template("watch.html.j2").render(
            nonce=nonce, title="CO-GEN run", sections=sections, folder=fragments.run.path
        )
        return HTMLResponse(html, headers={**HEADERS, "Content-Security-Policy": policy})

    async def events(request: Request) -> Response:
        stream = _stream(fragments, request, is_stopping)
        return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)

    async def report(request: Request) -> Response:
        try:
            html = (fragments.run.path / "report.html").read_bytes()
        except OSError:
            return PlainTextResponse("There is no report.html in the run folder yet.\n", 404, headers=HEADERS)
        return HTMLResponse(html, headers={**HEADERS, "Content-Security-Policy": REPORT_POLICY})

    def protected(endpoint: Endpoint) -> Endpoint:
        async def answer(request: Request) -> Response:
            if not _may_read(request, token):
                return PlainTextResponse("Open the address that the command printed.\n", 403, headers=HEADERS)
            return await endpoint(request)

        return answer

    pages = {"/": page, "/events": events, "/report.html": report}
    return Starlette(routes=[Route(path, protected(endpoint)) for path, endpoint in pages.items()])


async def _stream(fragments: Fragments, request: Request, is_stopping: Callable[[], bool]) -> AsyncIterator[str]:
    """First what changed since the browser's last message, or everything; then each change."""
    last_id, quiet_seconds = request.headers.get("last-event-id", ""), 0.0
    yield f"retry: {round(2000 * POLL_SECONDS)}\n\n"
    while True:
        is_last = is_stopping()
        fragments.refresh(at_once=is_last)
        message = fragments.message(last_id)
        quiet_seconds = 0.0 if message else quiet_seconds + POLL_SECONDS
        if message:
            last_id = fragments.last_id
            yield message
        elif quiet_seconds >= QUIET_SECONDS:
            quiet_seconds = 0.0
            yield ": nothing new\n\n"
        if is_last or await request.is_disconnected():
            return
        await asyncio.sleep(POLL_SECONDS)


def _may_read(request: Request, token: str) -> bool:
    if token:
        return secrets.compare_digest(request.query_params.get("token", "").encode(), token.encode())
    return _is_loopback(request.url.hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int, *, or_any: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        if or_any:
            return _listen(host, 0, or_any=False)
        raise RunError(
            "cannot show the run",
            expected=f"port {port} to be free",
            got=str(getattr(error, "strerror", None) or error),
            where=host,
            fix="Name an address of this machine with --host; name another port with --port, or leave --port out.",
        ) from None
