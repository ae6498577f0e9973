"""The one door to the outside: enrolment, and of Flower's interface what a node needs; all else is not there.

The open control interface of Flower's SuperLink lets whoever reaches it send code to every node, so SuperLink
listens on loopback, and this app (ASGI, under uvicorn with TLS) hands on just the paths in FLEET, for members alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from cogen.deploy.enrolment import Enrolment, Terms, enrol
from cogen.deploy.folder import FederationFolder
from cogen.deploy.known_keys import KEY_HEADER, KnownKeys
from cogen.deploy.limits import Buckets, Gone, HttpRefusal, Limits, Receive, body_of, whole_body
from cogen.deploy.redelivery import Redelivery, Work
from cogen.errors import CogenError, ConfigError, EnrolmentError
from cogen.records import validated

if TYPE_CHECKING:
    import httpx

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

PULL, OBJECT = "pull-messages", "pull-object"
ON_ITS_WAY = b"\x08\x01"  # the answer for an object that the coordinator's app has announced and not sent yet
# Without register-node and unregister-node: who is a node is decided here.
FLEET_NAMES = f"""activate-node deactivate-node send-node-heartbeat {PULL} push-messages get-run get-fab
    push-object {OBJECT} confirm-message-received""".split()
FLEET = {f"/v1/fleet/{name}".encode() for name in FLEET_NAMES}
HOP_BY_HOP = {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"}
HOP_BY_HOP |= {"transfer-encoding", "upgrade", "host", "server", "date", "expect"}
NO_PROGRESS = {PULL, "send-node-heartbeat", "activate-node"}  # what a node asks whether work has arrived or not
SEEN_SECONDS = 10.0

log = logging.getLogger("cogen.gateway")


class Gateway:
    """The ASGI app.

    Args:
        upstream: address of SuperLink, `https://127.0.0.1:PORT`; its certificate is verified.
    """

    def __init__(self, folder: FederationFolder, upstream: str, terms: Terms, limits: Limits | None = None) -> None:
        self.folder, self.upstream, self.terms = folder, upstream, terms
        self.limits = limits or Limits()
        self.known = KnownKeys(folder)
        self.enrols = Buckets(self.limits.enrols_per_minute)
        self.refusals = Buckets(self.limits.refusals_per_minute)
        self.redelivery = Redelivery()
        self.num_waiting = 0
        self.stopping = asyncio.Event()
        self.client: httpx.AsyncClient
        self.writer: asyncio.Task[None]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, and log it in a line: peer, domain, path, status, bytes, milliseconds."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            return
        began, status, sent = time.monotonic(), 0, 0

        async def counted(message: Message) -> None:
            nonlocal status, sent
            status = message.get("status", status)
            sent += len(message.get("body", b""))
            await send(message)

        try:
            answer = await self._answer(scope, receive)
            await answer(scope, receive, counted)
        except HttpRefusal as refused:
            await Response(status_code=refused.status, headers={"connection": "close"})(scope, receive, counted)
        except Gone:
            status = 499
        finally:
            milliseconds = 1000.0 * (time.monotonic() - began)
            path = scope["raw_path"][:80].decode("latin-1").encode("unicode_escape").decode()
            who = scope.get("cogen.domain", "-")
            log.info("%s %s %s %s %d %d %.0fms", _peer(scope), who, scope["method"], path, status, sent, milliseconds)

    async def _answer(self, scope: Message, receive: Receive) -> Response:
        """By the raw path, unescaped: there is nothing to normalise, so nothing to trick."""
        peer, path, method = _peer(scope), scope["raw_path"], scope["method"]
        if self.refusals.left(peer) < 1.0:
            raise HttpRefusal(429)
        plain = not scope["query_string"]
        if plain and path == b"/health" and method == "GET":
            return JSONResponse({"status": "ok", "federation": self.terms.name})
        if plain and path == b"/enrol" and method == "POST":
            return await self._enrol(peer, receive)
        if not (plain and path in FLEET and method == "POST"):
            self.refusals.take(peer)
            raise HttpRefusal(404)
        request = Request(scope)
        domain = self.known.domain_of(request.headers)
        if domain is None:
            self.refusals.take(peer)
            raise HttpRefusal(401)
        scope["cogen.domain"] = domain
        name = path.decode()
        headers = {k: v for k, v in request.headers.items() if k not in HOP_BY_HOP}
        if name.endswith(PULL):
            return await self._pull(name, headers, receive)
        if not name.endswith(tuple(NO_PROGRESS)):
            self.redelivery.arrived(headers[KEY_HEADER])
        if name.endswith(OBJECT):
            return await self._object(name, headers, receive)
        return await self._forward(name, headers, receive)

    async def _enrol(self, peer: str, receive: Receive) -> Response:
        if not self.enrols.take(peer):
            raise HttpRefusal(429)
        body = await whole_body(receive, self.limits.enrol_bytes, self.limits.enrol_seconds)
        try:
            asked = validated(Enrolment, json.loads(body), "enrolment")
        except (ValueError, ConfigError):
            return JSONResponse({"error": "expected an enrolment as JSON; use one version of cogen on both sides"}, 400)
        try:
            node_id = await run_in_threadpool(enrol, self.folder, asked, self.terms)
        except CogenError as error:
            log.info("%s %s not enrolled: %s", peer, asked.domain.encode("unicode_escape").decode(), error)
            if isinstance(error, EnrolmentError):
                return JSONResponse({"error": str(error)}, 403)
            return JSONResponse({"error": "the coordinator failed to enter the key; its log says why"}, 500)
        return JSONResponse({"node_id": node_id, "name": self.terms.name})

    async def _forward(self, path: str, headers: dict[str, str], receive: Receive) -> Response:
        """Both bodies stream through; a length that is too large by its own word is refused before the body."""
        if int(headers.get("content-length", "0")) > self.limits.fleet_bytes:
            raise HttpRefusal(413)
        body = body_of(receive, self.limits.fleet_bytes, self.limits.fleet_seconds)
        answer = await self._ask(path, headers, body)
        return StreamingResponse(_stream(answer), answer.status_code, _kept(answer))

    async def _object(self, path: str, headers: dict[str, str], receive: Receive) -> Response:
        """Hold the answer for an object that is on its way: a node sleeps 1 s after it, then 2 s, up to 10 s."""
        body = await whole_body(receive, self.limits.pull_bytes, self.limits.enrol_seconds)
        until = time.monotonic() + self.limits.object_seconds
        while True:
            answer = await self._ask(path, headers, body)
            if answer.headers.get("content-length") != str(len(ON_ITS_WAY)):
                return StreamingResponse(_stream(answer), answer.status_code, _kept(answer))
            content = await answer.aread()
            if content != ON_ITS_WAY or time.monotonic() > until or self.stopping.is_set():
                return Response(content, answer.status_code, _kept(answer))
            await asyncio.sleep(self.limits.object_ask_seconds)

    async def _ask(self, path: str, headers: dict[str, str], body: bytes | AsyncIterator[bytes]) -> httpx.Response:
        """SuperLink's answer, its body not read yet."""
        import httpx

        request = self.client.build_request("POST", self.upstream + path, headers=headers, content=body)
        try:
            return await self.client.send(request, stream=True)
        except httpx.TransportError:
            raise HttpRefusal(502) from None  # Flower's nodes try again after a 502, so a restart costs them seconds.

    async def _pull(self, path: str, headers: dict[str, str], receive: Receive) -> Response:
        """Hold an empty answer: a node sleeps 3 s after one. Work that may not have arrived is handed out again."""
        import httpx

        body, node = await whole_body(receive, self.limits.pull_bytes, self.limits.enrol_seconds), headers[KEY_HEADER]
        until = time.monotonic() + self.limits.hold_seconds
        gone = asyncio.ensure_future(_disconnected(receive))
        stop = asyncio.ensure_future(self.stopping.wait())
        self.num_waiting += 1
        try:
            while True:
                if work := self.redelivery.take(node):
                    return Response(work.content, headers=work.headers)
                answer = await self.client.post(self.upstream + path, headers=headers, content=body)
                if answer.status_code == 200 and answer.content:
                    self.redelivery.add(node, Work(answer.content, _kept(answer)))
                    continue
                if answer.status_code != 200 or time.monotonic() > until or stop.done():
                    return Response(answer.content, answer.status_code, _kept(answer))
                # However many nodes wait, SuperLink is asked at most ten times a second in all.
                pause = max(self.limits.ask_seconds, 0.1 * self.num_waiting)
                await asyncio.wait({gone, stop}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    raise Gone
        except httpx.TransportError:
            raise HttpRefusal(502) from None
        finally:
            self.num_waiting -= 1
            gone.cancel()
            stop.cancel()

    async def _live(self, receive: Receive, send: Send) -> None:
        """From uvicorn's start to its end: the connections to SuperLink, and who was last heard."""
        import httpx

        trusted = ssl.create_default_context(cafile=str(self.folder.link / "ca.pem"))
        pool = httpx.Limits(max_connections=self.limits.max_connections, max_keepalive_connections=32)
        timeout = httpx.Timeout(60.0, pool=10.0)
        async with httpx.AsyncClient(verify=trusted, limits=pool, timeout=timeout, trust_env=False) as self.client:
            await receive()
            writer = asyncio.create_task(self._write_seen())
            await send({"type": "lifespan.startup.complete"})
            await receive()
            writer.cancel()
            with suppress(asyncio.CancelledError):
                await writer
            await run_in_threadpool(self.known.write_seen)
        await send({"type": "lifespan.shutdown.complete"})

    async def _write_seen(self) -> None:
        while True:
            await asyncio.sleep(SEEN_SECONDS)
            try:
                await run_in_threadpool(self.known.write_seen)
            except CogenError as error:
                log.warning("cannot note who was heard: %s", error)


def _peer(scope: Message) -> str:
    return str(scope["client"][0]) if scope.get("client") else "-"


def _kept(answer: httpx.Response) -> dict[str, str]:
    length = {"content-length", "content-encoding"}  # as they are only where the bytes go through as they came
    return {k: v for k, v in answer.headers.items() if k not in HOP_BY_HOP | length}


async def _stream(answer: httpx.Response) -> AsyncIterator[bytes]:
    async with aclosing(answer):
        async for chunk in answer.aiter_bytes():
            yield chunk


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
