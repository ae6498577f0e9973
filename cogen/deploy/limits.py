"""Limits of the gateway, and how they are kept: requests per minute, bytes, and seconds for headers and body."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
MAX_PEERS = 10_000


@dataclass(frozen=True)
class Limits:
    """Limits of the gateway; tests set smaller ones.

    Args:
        max_connections: open connections of strangers, of all addresses.
        connections_per_address: of strangers of one address; members' connections are not counted.
        fleet_bytes: of an object, which has up to 16 MiB and a head.
        pull_bytes: of every other request of a node.
        fleet_seconds: for the body of an object.
        answer_seconds: for reading an answer.
        unread_bytes: of objects that a member sends between two messages for it.
        member_requests: of one member at the same time; a node makes up to four.
        announcements_per_minute: of one member; each takes SuperLink's database for up to 0.2 s.
        refusals_per_minute: refused requests per address (unknown key or path) and per member; after that, all of
            these requests get 429. A member's right requests are not counted by address.
        handshake_seconds: from a connection to the end of its TLS handshake.
        header_seconds: time from the first byte of a request to the last byte of its headers.
        hold_seconds: how long a node's request for work waits before the answer is that there is none.
        ask_seconds: pause between requests to SuperLink while a node waits for work.
        object_seconds: how long a node's request for an announced object waits for the object.
        object_ask_seconds: pause between requests to SuperLink while a node waits for an object.
    """

    max_connections: int = 256
    connections_per_address: int = 64
    connections_per_member: int = 16
    fleet_bytes: int = 16_842_752
    pull_bytes: int = 131_072
    enrol_bytes: int = 4096
    unread_bytes: int = 2 << 30
    member_requests: int = 12
    member_requests_per_minute: float = 3000.0
    announcements_per_minute: float = 60.0
    fleet_seconds: float = 300.0
    answer_seconds: float = 300.0
    enrol_seconds: float = 10.0
    handshake_seconds: float = 5.0
    header_seconds: float = 10.0
    enrols_per_minute: float = 10.0
    refusals_per_minute: float = 60.0
    hold_seconds: float = 15.0
    ask_seconds: float = 0.2
    object_seconds: float = 5.0
    object_ask_seconds: float = 0.05


class HttpRefusal(Exception):
    """The request is answered with this status and without a body."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


class Gone(Exception):
    """The client has closed the connection, so there is no answer."""


class Buckets:
    """A token bucket for each peer: `per_minute` requests at once, then `per_minute` in each minute."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = per_minute, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, peer: str) -> bool:
        """Take one token; False if the peer has none left."""
        left = self.left(peer)
        self._left[peer] = (max(left - 1.0, 0.0) if left >= 1.0 else left, self._clock())
        self._left.move_to_end(peer)
        while len(self._left) > MAX_PEERS:
            self._left.popitem(last=False)
        return left >= 1.0

    def left(self, peer: str) -> float:
        """The number of tokens that the peer has left."""
        left, since = self._left.get(peer, (self._most, self._clock()))
        return min(self._most, left + (self._clock() - since) * self._most / 60.0)


async def body_of(receive: Receive, max_bytes: int, seconds: float) -> AsyncIterator[bytes]:
    """The chunks of the body.

    Raises:
        HttpRefusal: 413 for too many bytes, 408 for too many seconds.
        Gone: the client closed the connection.
    """
    until, size = asyncio.get_running_loop().time() + seconds, 0
    while True:
        try:
            message = await asyncio.wait_for(receive(), until - asyncio.get_running_loop().time())
        except TimeoutError:
            raise HttpRefusal(408) from None
        if message["type"] != "http.request":
            raise Gone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise HttpRefusal(413)
        if chunk:
            yield chunk
        if not message.get("more_body", False):
            return


async def whole_body(receive: Receive, max_bytes: int, seconds: float) -> bytes:
    """The whole body; raises as `body_of` does."""
    return b"".join([chunk async for chunk in body_of(receive, max_bytes, seconds)])


def timed_protocol(header_seconds: float, established: Callable[[tuple[str, int]], None]) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1 with a limit that uvicorn lacks: it closes a connection whose headers take too long.

    Args:
        established: called with the peer of a connection whose TLS handshake has ended.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class TimedProtocol(H11Protocol):
        late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if self.client is not None:
                established(self.client)
            self._watch()

        def data_received(self, data: bytes) -> None:
            if self.late is None and self._idle():
                self._watch()
            super().data_received(data)
            if self.late is not None and not self._idle():
                self.late.cancel()
                self.late = None

        def connection_lost(self, exc: Exception | None) -> None:
            if self.late is not None:
                self.late.cancel()
            super().connection_lost(exc)

        def _idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _watch(self) -> None:
            self.late = self.loop.call_later(header_seconds, self._close)

        def _close(self) -> None:
            self.late = None
            if self._idle() and not self.transport.is_closing():
                self.transport.close()

    return TimedProtocol
