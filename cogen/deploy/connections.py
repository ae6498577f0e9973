"""Who holds the gateway's connections: strangers by address, from before TLS on, and members by their key.

A connection belongs to its address until a request on it is signed by a member, from then on to that member. Where one of
them holds too many, its own oldest connection is closed. So no address and no member can use up the connections, and the
members behind one address take none from each other: a member signs its first request within a second.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cogen.deploy.limits import Limits

Peer = tuple[str, int]
Owner = tuple[str, str]  # "address" or "member", and which one
ADDRESS, MEMBER = "address", "member"
IPV6_PREFIX = 64  # a site has at least so many addresses for itself


def address_group(host: str) -> str:
    """An IPv4 address, or the network of an IPv6 address: what one client can choose from counts as one."""
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, IPV6_PREFIX), strict=False))


class Connection(socket.socket):
    """An accepted connection, which says when it is closed, by whichever side."""

    def __init__(self, fd: int, peer: Peer, on_close: Callable[[Connection], None]) -> None:
        super().__init__(fileno=fd)
        self.peer, self._on_close = peer, on_close

    def close(self) -> None:
        """Close it and free its place."""
        super().close()
        self._on_close(self)

    def cut(self) -> None:
        """End the connection; its transport then closes it."""
        with suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)


class Connections:
    """All open connections of the gateway by owner, oldest first; used by the thread of the event loop alone."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._owned: dict[Owner, OrderedDict[Peer, Connection]] = {}
        self._owners: dict[Peer, Owner] = {}
        self._handshakes: dict[Peer, asyncio.TimerHandle] = {}

    def opened(self, connection: Connection) -> None:
        """A connection was accepted; its TLS handshake must end in time."""
        self._give(connection, (ADDRESS, address_group(connection.peer[0])), self._limits.connections_per_address)
        later = asyncio.get_running_loop().call_later
        self._handshakes[connection.peer] = later(self._limits.handshake_seconds, connection.cut)
        strangers = {o: held for o, held in self._owned.items() if o[0] == ADDRESS}
        if sum(map(len, strangers.values())) > self._limits.max_connections:
            self._cut_oldest(max(strangers, key=lambda owner: len(strangers[owner])))

    def established(self, peer: Peer) -> None:
        """The handshake of this connection has ended."""
        if (timer := self._handshakes.pop(peer, None)) is not None:
            timer.cancel()

    def signed_by(self, peer: Peer, domain: str) -> None:
        """A request on this connection was signed by a member."""
        owner = self._owners.get(peer)
        if owner is not None and owner != (MEMBER, domain):
            self._give(self._drop(peer), (MEMBER, domain), self._limits.connections_per_member)

    def closed(self, connection: Connection) -> None:
        """The connection is gone."""
        owner = self._owners.get(connection.peer)
        if owner is not None and self._owned[owner].get(connection.peer) is connection:
            self._drop(connection.peer)

    def num_of(self, owner: Owner) -> int:
        """How many connections the owner holds."""
        return len(self._owned.get(owner, ()))

    def _give(self, connection: Connection, owner: Owner, most: int) -> None:
        self._owners[connection.peer] = owner
        self._owned.setdefault(owner, OrderedDict())[connection.peer] = connection
        while self.num_of(owner) > most:
            self._cut_oldest(owner)

    def _drop(self, peer: Peer) -> Connection:
        self.established(peer)
        owner = self._owners.pop(peer)
        connection = self._owned[owner].pop(peer)
        if not self._owned[owner]:
            del self._owned[owner]
        return connection

    def _cut_oldest(self, owner: Owner) -> None:
        self._drop(next(iter(self._owned[owner]))).cut()


class Listener(socket.socket):
    """A listening socket that counts what it accepts, before TLS."""

    def __init__(self, connections: Connections, family: int) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._connections = connections

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection, as `socket.accept` returns it."""
        fd, address = self._accept()  # type: ignore[attr-defined]
        connection = Connection(fd, (str(address[0]), int(address[1])), self._connections.closed)
        self._connections.opened(connection)
        return connection, address


def listen(connections: Connections, host: str, port: int, backlog: int = 512) -> Listener:
    """Listen at an address of this machine.

    Raises:
        OSError: the address or the port cannot be used.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = Listener(connections, family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as asyncio does
        listener.bind(address)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
