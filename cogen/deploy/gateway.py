"""The only program of a federation that outsiders reach: it enrols domains and forwards what a Flower node needs.

Anybody who reaches the control interface of Flower's SuperLink can send code to every node. So SuperLink listens at a
Unix socket that is open to its own user, and this app (ASGI, under uvicorn with TLS) forwards just the paths in FLEET, only for members, and only
what an honest node of that member says.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import ExitStack, aclosing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from cogen.deploy.connections import Connections, address_group
from cogen.deploy.enrolment import Enrolment, Terms, enrol
from cogen.deploy.folder import FederationFolder
from cogen.deploy.invites import open_domain
from cogen.deploy.known_keys import KnownKeys
from cogen.deploy.limits import Buckets, Gone, HttpRefusal, Limits, Receive, whole_body
from cogen.deploy.member_limits import MemberLimits
from cogen.deploy.request_headers import HOP_BY_HOP, forwarded, single_headers
from cogen.errors import CogenError, ConfigError, EnrolmentError
from cogen.flower.api_socket import ADDRESS
from cogen.flower.fleet_requests import REQUESTS, BadRequest, Sender, activated_node, check_request
from cogen.node.channel import lasting_address
from cogen.records import validated

if TYPE_CHECKING:
    import httpx

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

ACTIVATE, PULL, OBJECT = "activate-node", "pull-messages", "pull-object"
ANNOUNCE, PUSH = "push-messages", "push-object"
ON_ITS_WAY = b"\x08\x01"  # SuperLink's answer for an object that the server app has announced but not sent yet
# register-node and unregister-node are missing: only the coordinator registers nodes.
FLEET = {f"/v1/fleet/{name}".encode(): name for name in REQUESTS}
NO_PROGRESS = {PULL, "send-node-heartbeat", ACTIVATE}  # requests that do not show that work arrived at a node
SEEN_SECONDS = 10.0

log = logging.getLogger("cogen.gateway")


@dataclass(frozen=True)
class Work:
    """An answer of SuperLink that carries a message for a node."""

    content: bytes
    headers: dict[str, str]


class Redelivery:
    """Answers with work, oldest first for each node; each is sent again until the node shows that it arrived.

    SuperLink gives out each message once. If the answer were lost on its way, no node would work on the message, and
    the round would wait until its deadline. A node has several answers only if it sent several requests at once.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, deque[Work]] = {}
        self._sent: set[int] = set()

    def add(self, node: int, work: Work) -> None:
        """Keep an answer that SuperLink gave out for `node`."""
        self._waiting.setdefault(node, deque()).append(work)

    def take(self, node: int) -> Work | None:
        """The oldest work for `node` that has not arrived."""
        waiting = self._waiting.get(node)
        if not waiting:
            return None
        self._sent.add(node)
        return waiting[0]

    def arrived(self, node: int) -> None:
        """The node has made another request, so the work that was sent last has arrived."""
        if node in self._sent:
            self._sent.discard(node)
            self._waiting[node].popleft()


class Gateway:
    """The ASGI app.

    Args:
        upstream: the socket at which SuperLink listens; its certificate is verified.
    """

    def __init__(self, folder: FederationFolder, upstream: Path, terms: Terms, limits: Limits | None = None) -> None:
        self.folder, self.upstream, self.terms = folder, upstream, terms
        self.limits = limits or Limits()
        self.known = KnownKeys(folder)
        self.enrols = Buckets(self.limits.enrols_per_minute)
        self.refusals = Buckets(self.limits.refusals_per_minute)
        self.members = MemberLimits(self.limits)
        self.connections = Connections(self.limits)
        self.redelivery = Redelivery()
        self.num_waiting = 0
        self.stopping = asyncio.Event()
        self.client: httpx.AsyncClient
        self.writer: asyncio.Task[None]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request and log one line: peer, domain, method, path, status, bytes, milliseconds."""
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
            with ExitStack() as held:
                answer = await self._answer(scope, receive, held)
                async with asyncio.timeout(self.limits.answer_seconds):
                    await answer(scope, receive, counted)
        except HttpRefusal as refused:
            await Response(status_code=refused.status, headers={"connection": "close"})(scope, receive, counted)
        except (Gone, TimeoutError):  # uvicorn closes a connection whose answer is not whole
            status = 499
        finally:
            milliseconds = 1000.0 * (time.monotonic() - began)
            path = scope["raw_path"][:80].decode("latin-1").encode("unicode_escape").decode()
            who = scope.get("cogen.domain", "-")
            log.info("%s %s %s %s %d %d %.0fms", _peer(scope), who, scope["method"], path, status, sent, milliseconds)

    async def _answer(self, scope: Message, receive: Receive, held: ExitStack) -> Response:
        """Route by the raw path. It is not normalised, so no encoding of a path can pass for another one.

        Args:
            held: entered for as long as the answer is being sent.
        """
        peer, path, method = _peer(scope), scope["raw_path"], scope["method"]
        headers = single_headers(scope["headers"])
        plain = not scope["query_string"]
        if plain and path == b"/health" and method == "GET":
            return JSONResponse({"status": "ok", "federation": self.terms.name})
        if plain and path == b"/enrol" and method == "POST":
            return await self._enrol(peer, receive)
        name = FLEET.get(path) if plain and method == "POST" else None
        sender = self.known.sender_of(headers)
        if sender is None:
            status = 404 if name is None else 401
            raise HttpRefusal(status if self.refusals.take(address_group(peer)) else 429)
        scope["cogen.domain"] = sender.domain
        self.connections.signed_by(tuple(scope["client"]), sender.domain)
        if name is None:
            raise self.members.refused(sender, 404)
        held.enter_context(self.members.request(sender))
        return await self._fleet(name, headers, sender, receive)

    async def _enrol(self, peer: str, receive: Receive) -> Response:
        body = await whole_body(receive, self.limits.enrol_bytes, self.limits.enrol_seconds)
        try:
            request = validated(Enrolment, json.loads(body), "enrolment")
        except (ValueError, ConfigError, RecursionError):
            self._count_enrolment(address_group(peer))
            return JSONResponse(
                {"error": "expected an enrolment as JSON; use the same version of cogen on both sides"}, 400
            )
        invited = await run_in_threadpool(open_domain, self.folder, request.token)
        self._count_enrolment(address_group(peer) if invited is None else f"the invite of {invited}")
        try:
            node_id = await run_in_threadpool(enrol, self.folder, request, self.terms)
        except CogenError as error:
            log.info("%s %s not enrolled: %s", peer, request.domain.encode("unicode_escape").decode(), error)
            if isinstance(error, EnrolmentError):
                return JSONResponse({"error": str(error)}, 403)
            return JSONResponse({"error": "the coordinator could not save the key; its log says why"}, 500)
        return JSONResponse({"node_id": node_id, "name": self.terms.name})

    def _count_enrolment(self, of: str) -> None:
        """Attempts without an open invite count for their address, others for the invite."""
        if not self.enrols.take(of):
            raise HttpRefusal(429)

    async def _fleet(self, name: str, headers: dict[str, str], sender: Sender, receive: Receive) -> Response:
        """The answer to a request of a node, after it was checked."""
        most, seconds = self.limits.pull_bytes, self.limits.enrol_seconds
        if name == PUSH:
            most, seconds = self.limits.fleet_bytes, self.limits.fleet_seconds
        if int(headers.get("content-length", "0")) > most:
            raise HttpRefusal(413)
        async with self.members.large_body(sender) if name == PUSH else nullcontext():
            body = await whole_body(receive, most, seconds)
            await self._check(name, body, sender)
            path, headers = f"/v1/fleet/{name}", forwarded(headers)
            if name == PULL:
                return await self._pull(path, headers, body, sender, receive)
            if name not in NO_PROGRESS:
                self.redelivery.arrived(sender.node_id)
            if name == OBJECT:
                return await self._object(path, headers, body)
            answer = await self._ask(path, headers, body)
        if name == ACTIVATE and answer.status_code == 200:
            content = await answer.aread()
            if activated_node(content) != sender.node_id:
                log.warning("%s has another node at SuperLink than in members.json", sender.domain)
                raise HttpRefusal(502)
            return Response(content, answer.status_code, _kept(answer))
        return StreamingResponse(_stream(answer), answer.status_code, _kept(answer))

    async def _check(self, name: str, body: bytes, sender: Sender) -> None:
        try:
            await run_in_threadpool(check_request, name, body, sender)
        except BadRequest as error:
            log.warning("%s %s refused: %s", sender.domain, name, error)
            raise self.members.refused(sender, 400) from None
        if name == ANNOUNCE:
            self.members.announce(sender)
        if name == PUSH:
            self.members.add_bytes(sender, len(body))

    async def _object(self, path: str, headers: dict[str, str], body: bytes) -> Response:
        """Wait until an announced object is there, because a node that gets no object sleeps 1 s, then 2 s, up to 10 s."""
        until = time.monotonic() + self.limits.object_seconds
        while True:
            answer = await self._ask(path, headers, body)
            if answer.headers.get("content-length") != str(len(ON_ITS_WAY)):
                return StreamingResponse(_stream(answer), answer.status_code, _kept(answer))
            content = await answer.aread()
            if content != ON_ITS_WAY or time.monotonic() > until or self.stopping.is_set():
                return Response(content, answer.status_code, _kept(answer))
            await asyncio.sleep(self.limits.object_ask_seconds)

    async def _ask(self, path: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        """SuperLink's answer; its body is not read yet."""
        import httpx

        request = self.client.build_request("POST", path, headers=headers, content=body)
        try:
            return await self.client.send(request, stream=True)
        except httpx.TransportError:
            raise HttpRefusal(
                502
            ) from None  # Flower's nodes retry after a 502, so a restart of SuperLink costs seconds.

    async def _pull(
        self, path: str, headers: dict[str, str], body: bytes, sender: Sender, receive: Receive
    ) -> Response:
        """Wait for work, because a node that gets none sleeps 3 s. Work that may not have arrived is sent again."""
        import httpx

        until = time.monotonic() + self.limits.hold_seconds
        gone = asyncio.ensure_future(_disconnected(receive))
        stop = asyncio.ensure_future(self.stopping.wait())
        self.num_waiting += 1
        try:
            while True:
                if work := self.redelivery.take(sender.node_id):
                    return Response(work.content, headers=work.headers)
                answer = await self.client.post(path, headers=headers, content=body)
                if answer.status_code == 200 and answer.content:
                    self.members.got_work(sender)
                    self.redelivery.add(sender.node_id, Work(answer.content, _kept(answer)))
                    continue
                if answer.status_code != 200 or time.monotonic() > until or stop.done():
                    return Response(answer.content, answer.status_code, _kept(answer))
                # All waiting nodes together cause at most ten requests per second to SuperLink.
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
        """Hold the connections to SuperLink from uvicorn's start to its end, and save when members were last seen."""
        import httpx

        trusted = ssl.create_default_context(cafile=str(self.folder.link / "ca.pem"))
        pool = httpx.Limits(max_connections=self.limits.max_connections, max_keepalive_connections=32)
        timeout = httpx.Timeout(60.0, pool=10.0)
        transport = httpx.AsyncHTTPTransport(verify=trusted, limits=pool, uds=lasting_address(self.upstream))
        base = f"https://{ADDRESS}"  # the socket does not hear it, and the certificate is for this host
        async with httpx.AsyncClient(
            transport=transport, base_url=base, timeout=timeout, trust_env=False
        ) as self.client:
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
                log.warning("cannot save when members were last seen: %s", error)


def _peer(scope: Message) -> str:
    return str(scope["client"][0]) if scope.get("client") else "-"


def _kept(answer: httpx.Response) -> dict[str, str]:
    length = {"content-length", "content-encoding"}  # the body may be decoded, so its length can differ
    return {k: v for k, v in answer.headers.items() if k not in HOP_BY_HOP | length}


async def _stream(answer: httpx.Response) -> AsyncIterator[bytes]:
    async with aclosing(answer):
        async for chunk in answer.aiter_bytes():
            yield chunk


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
