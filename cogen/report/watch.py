"""The live page of a run: a small web server that reads the run folder and sends what is new.

The browser gets one page without anything fetched from elsewhere, and server-sent events: all sections at
first, then those that changed. Nothing is read while no page is open.
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
from cogen.report.feed import POLL_SECONDS, Feed
from cogen.report.page import template

PORT = 8420
QUIET_SECONDS = 15.0
HEADERS = {
    "Cache-Baseline": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class PageAddress:
    """Where the page is: a socket that listens, the address to open, and the token that a network needs."""

    listener: socket.socket
    url: str
    token: str


def open_place(host: str, port: int | None) -> PageAddress:
    """Take the port; off loopback, make up a token.

    Args:
        port: None takes the usual one, or any free one when that is taken.
    Raises:
        RunError: no such host, or the port is taken.
    """
    listener = _listen(host, PORT if port is None else port, or_any=port is None)
    token = "" if _is_loopback(host) else secrets.token_urlsafe(24)
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
    name = f"[{shown}]" if ":" in shown else shown
    query = f"?token={token}" if token else ""
    return PageAddress(listener, f"http://{name}:{listener.getsockname()[1]}/{query}", token)


def make_server(run: Path, place: PageAddress) -> uvicorn.Server:
    """A server of the page of `run`, which may not exist yet; `serve` starts it."""
    app = watch_app(Feed(run), place.token, lambda: server.should_exit)
    # What matters to the user is printed by the commands; uvicorn's own lines would tear their bars.
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", ws="none", access_log=False, log_level="error"))
    return server


@contextmanager
def watching(run: Path, place: PageAddress) -> Iterator[None]:
    """Serve the page from a thread while the block runs; pages that are open get the last state before it ends."""
    server = make_server(run, place)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place.listener]}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=10 * POLL_SECONDS)


def watch_app(feed: Feed, token: str, is_stopping: Callable[[], bool]) -> Starlette:
    """Three addresses: the page, its events, and report.html once it is there.

    Args:
        token: asked of every request; empty on loopback, where the request must name loopback instead, so that
            a web site which points its own name here cannot read the page through the user's browser.
    """

    async def page(request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        policy = f"default-src 'none'; connect-src 'self'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'"
        policy += "; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        html = template("watch.html.j2").render(nonce=nonce)
        return HTMLResponse(html, headers={**HEADERS, "Content-Security-Policy": policy})

    async def events(request: Request) -> Response:
        stream = _stream(feed, request, is_stopping)
        return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)

    async def report(request: Request) -> Response:
        try:
            html = (feed.run.path / "report.html").read_bytes()
        except OSError:
            return PlainTextResponse("There is no report.html in the run folder yet.\n", 404, headers=HEADERS)
        return HTMLResponse(html, headers={**HEADERS, "Content-Security-Policy": REPORT_POLICY})

    def guarded(endpoint: Endpoint) -> Endpoint:
        async def answer(request: Request) -> Response:
            if not _may_read(request, token):
                return PlainTextResponse("Open the address that the command printed.\n", 403, headers=HEADERS)
            return await endpoint(request)

        return answer

    pages = {"/": page, "/events": events, "/report.html": report}
    return Starlette(routes=[Route(path, guarded(endpoint)) for path, endpoint in pages.items()])


async def _stream(feed: Feed, request: Request, is_stopping: Callable[[], bool]) -> AsyncIterator[str]:
    """Everything at first, or what is new since the message that the browser saw last; then each change."""
    last_id, quiet_seconds = request.headers.get("last-event-id", ""), 0.0
    yield f"retry: {round(2000 * POLL_SECONDS)}\n\n"
    while True:
        is_last = is_stopping()
        feed.refresh(at_once=is_last)
        message = feed.message(last_id)
        quiet_seconds = 0.0 if message else quiet_seconds + POLL_SECONDS
        if message:
            last_id = feed.last_id
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
            fix="Name an address of this machine with --host, and another port with --port or none.",
        ) from None
