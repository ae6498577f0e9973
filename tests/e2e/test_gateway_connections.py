"""One address cannot use up the gateway's connections, and members behind it do not pay for its other users."""

from __future__ import annotations

import socket
import ssl
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from cogen.deploy.connections import ADDRESS, MEMBER, address_group
from cogen.deploy.limits import Limits
from tests.node_requests import body_of
from tests.running_gateway import NodeKey, RunningGateway, running_gateway
from tests.waiting import wait_until

GET_RUN = "/v1/fleet/get-run"
HERE = (ADDRESS, "127.0.0.1")


def knock(stack: ExitStack, door: RunningGateway, *, tls: bool = False, source: str = "127.0.0.1") -> socket.socket:
    """A connection that says nothing, after its TLS handshake or instead of it."""
    plain = socket.create_connection(("127.0.0.1", door.port), timeout=10.0, source_address=(source, 0))
    if not tls:
        return stack.enter_context(plain)
    trusted = ssl.create_default_context(cafile=str(door.folder.ca))
    return stack.enter_context(trusted.wrap_socket(plain, server_hostname="127.0.0.1"))


def is_closed(connection: socket.socket) -> bool:
    """Whether the gateway has closed it."""
    connection.settimeout(0.2)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def asked(door: RunningGateway, key: NodeKey) -> int:
    with door.client(timeout=20.0) as client:
        return client.post(GET_RUN, content=body_of(key, GET_RUN), headers=key.headers()).status_code


def test_an_address_has_few_connections_before_tls_and_its_members_still_get_in(tmp_path: Path) -> None:
    """Red: 512 idle connections of anybody, each for a minute, and everybody gets 503."""
    limits = Limits(connections_per_address=8, max_connections=12, handshake_seconds=60.0, header_seconds=60.0)
    with running_gateway(tmp_path / "fed", limits) as door, ExitStack() as stack:
        key = door.member("grid")
        idle = [knock(stack, door) for _ in range(20)] + [knock(stack, door, tls=True) for _ in range(20)]
        assert asked(door, key) == 200
        assert door.gateway.connections.num_of(HERE) <= 8
        assert [is_closed(one) for one in idle[:30]] == [True] * 30  # the oldest went
        if not sys.platform.startswith("linux"):
            return  # no other address of this machine
        elsewhere = [knock(stack, door, source="127.0.0.2") for _ in range(8)]
        assert wait_until(lambda: door.gateway.connections.num_of((ADDRESS, "127.0.0.2")) >= 4)
        assert asked(door, key) == 200
        counted = [door.gateway.connections.num_of((ADDRESS, a)) for a in ("127.0.0.1", "127.0.0.2")]
        assert sum(counted) <= 12 and elsewhere


def test_a_members_connections_are_its_own(tmp_path: Path) -> None:
    """They do not count for the address, and are few. Red: a member that holds them all."""
    limits = Limits(connections_per_address=4, connections_per_member=3)
    with running_gateway(tmp_path / "fed", limits) as door, ExitStack() as stack:
        greedy, other = door.member("greedy"), door.member("other")
        clients = [stack.enter_context(door.client(timeout=20.0)) for _ in range(6)]
        for client in clients:
            answer = client.post(GET_RUN, content=body_of(greedy, GET_RUN), headers=greedy.headers())
            assert answer.status_code == 200
            stack.enter_context(door.client())
        assert door.gateway.connections.num_of((MEMBER, "greedy")) == 3
        for _ in range(8):
            knock(stack, door)
        assert asked(door, other) == 200 and door.gateway.connections.num_of((MEMBER, "greedy")) == 3
    assert wait_until(lambda: door.gateway.connections.num_of((MEMBER, "greedy")) == 0)


def test_a_handshake_that_does_not_come_is_cut_off(tmp_path: Path) -> None:
    """Red: asyncio waits for a minute."""
    with running_gateway(tmp_path / "fed", Limits(handshake_seconds=0.5)) as door, ExitStack() as stack:
        for said in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"):
            began, connection = time.monotonic(), knock(stack, door)
            connection.sendall(said)
            connection.settimeout(10.0)
            with suppress(ConnectionError):
                while connection.recv(4096):
                    pass
            assert time.monotonic() - began < 5.0
        assert wait_until(lambda: door.gateway.connections.num_of(HERE) == 0)
        slow = knock(stack, door, tls=True)
        time.sleep(1.0)
        assert not is_closed(slow)  # its headers have their own limit


def test_wrong_paths_and_keys_of_an_address_do_not_lock_out_its_members(tmp_path: Path) -> None:
    """Members behind one proxy. Red: refusals counted by address, and every request of it is refused."""
    limits = Limits(refusals_per_minute=3.0, enrols_per_minute=2.0)
    with running_gateway(tmp_path / "fed", limits) as door, door.client() as client:
        key, late = door.member("grid"), door.invite("late")
        assert [client.get("/admin").status_code for _ in range(5)] == [404, 404, 404, 429, 429]
        assert client.post(GET_RUN, headers=NodeKey().headers()).status_code == 429
        assert asked(door, key) == 200
        assert client.get("/health").status_code == 200
        wrong = [door.enrol(late, NodeKey(), token="A" * 43).status_code for _ in range(3)]
        assert wrong == [403, 403, 429]
        assert door.enrol(late, NodeKey()).status_code == 200  # an open invite is nobody else's attempt


def test_an_invite_is_tried_few_times(tmp_path: Path) -> None:
    """Red: whoever has one can hold the lock for ever."""
    with running_gateway(tmp_path / "fed", Limits(enrols_per_minute=3.0)) as door:
        invite, other = door.invite("grid"), door.invite("other")
        tries = [door.enrol(invite, NodeKey(), app_sha256="e" * 64).status_code for _ in range(4)]
        assert tries == [403, 403, 403, 429]
        assert door.enrol(other, NodeKey()).status_code == 200


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("-", "-"),
    ],
)
def test_a_network_counts_as_one_address(host: str, group: str) -> None:
    """Red: a site with IPv6 has 2^64 addresses to try from."""
    assert address_group(host) == group
