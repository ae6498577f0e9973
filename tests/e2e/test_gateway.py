"""The gateway with each kind of client: strangers, members, revoked members, slow and greedy ones."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio._backends._asyncio import UNIXSocketStream
from cryptography.hazmat.primitives.asymmetric import ec

from cogen.deploy.gateway import Gateway
from cogen.deploy.limits import Limits
from cogen.deploy.member_limits import _Account
from cogen.deploy.members import all_members, read_members, revoke_member
from cogen.errors import FederationError
from tests.node_requests import as_record, body_of, pushed
from tests.running_gateway import APP, FINGERPRINT, NodeKey, RunningGateway, running_gateway
from tests.waiting import in_background, wait_until

LIMITS = Limits(
    fleet_bytes=200_000,
    pull_bytes=2000,
    fleet_seconds=1.5,
    enrol_seconds=1.5,
    header_seconds=1.0,
    enrols_per_minute=10_000.0,
    refusals_per_minute=10_000.0,
    hold_seconds=1.0,
    object_seconds=1.0,
    ask_seconds=0.05,
)
HEARTBEAT = "/v1/fleet/send-node-heartbeat"
PULL = "/v1/fleet/pull-messages"
PULL_OBJECT, GET_RUN = "/v1/fleet/pull-object", "/v1/fleet/get-run"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(tmp_path_factory.mktemp("gate"), LIMITS) as made:
        yield made


@pytest.fixture(scope="module")
def key(door: RunningGateway) -> NodeKey:
    return door.member("clinical")


def raw(door: RunningGateway, content: bytes, *, seconds: float = 10.0) -> bytes:
    """Bytes as they are, over TLS; everything that comes back until the other side closes."""
    trusted = ssl.create_default_context(cafile=str(door.folder.ca))
    with (
        socket.create_connection(("127.0.0.1", door.port), timeout=seconds) as plain,
        trusted.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(content)
        got = b""
        while part := connection.recv(65536):
            got += part
        return got


def signed(key: NodeKey, method: str, target: str, *more: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "host: fed", "connection: close"]
    lines += [f"{k}: {v}" for k, v in key.headers().items()]
    lines += more or [f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


# Members


def test_a_members_request_goes_through_and_back(door: RunningGateway, key: NodeKey) -> None:
    with door.client() as client:
        answer = client.post(HEARTBEAT, content=body_of(key, HEARTBEAT), headers=key.headers())
    assert (answer.status_code, answer.content) == (200, b"done")
    assert answer.headers["x-flower"] == "yes"
    assert "keep-alive" not in answer.headers
    assert "server" not in answer.headers
    assert door.upstream.seen[-1] == ("POST", HEARTBEAT, len(body_of(key, HEARTBEAT)))


def test_health_says_nothing_else(door: RunningGateway) -> None:
    with door.client() as client:
        assert client.get("/health").json() == {"status": "ok", "federation": "care"}


def test_last_seen_is_noted(door: RunningGateway, key: NodeKey) -> None:
    with door.client() as client:
        client.post(HEARTBEAT, content=body_of(key, HEARTBEAT), headers=key.headers())
    door.gateway.known.write_seen()
    seen = read_members(door.folder.path)["clinical"].last_seen
    assert seen is not None
    assert datetime.now(UTC) - datetime.fromisoformat(seen) < timedelta(minutes=1)


# Strangers


def test_who_is_not_enrolled_reaches_nothing(door: RunningGateway, key: NodeKey) -> None:
    before = len(door.upstream.seen)
    stale = key.headers(datetime.now(UTC) - timedelta(seconds=400))
    another = {**key.headers(), "flwr-signature": NodeKey().headers()["flwr-signature"]}
    moved = {**key.headers(), "flwr-timestamp": (datetime.now(UTC) + timedelta(seconds=1)).isoformat()}
    with door.client() as client:
        for headers in ({}, NodeKey().headers(), stale, another, moved, {"flwr-public-key": "!", **moved}):
            answer = client.post(HEARTBEAT, headers=headers)
            assert (answer.status_code, answer.content) == (401, b"")
    assert len(door.upstream.seen) == before


def test_a_revoked_member_is_out_at_once(door: RunningGateway) -> None:
    theirs = door.member("materials")
    with door.client() as client:
        assert client.post(HEARTBEAT, content=body_of(theirs, HEARTBEAT), headers=theirs.headers()).status_code == 200
        revoke_member(door.folder.path, "materials")
        before = len(door.upstream.seen)
        assert client.post(HEARTBEAT, content=body_of(theirs, HEARTBEAT), headers=theirs.headers()).status_code == 401
        assert len(door.upstream.seen) == before
    assert door.enrol(door.invite("materials"), theirs).status_code == 403  # a revoked key does not come back
    door.member("materials")


@pytest.mark.parametrize(
    "target",
    [
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/get-nodes",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/..%2fcontrol%2fstart-run",
        "/v1/fleet/send-node-heartbeat/../../control/start-run",
        "/v1/fleet/./send-node-heartbeat",
        "/v1//fleet/send-node-heartbeat",
        "//v1/fleet/send-node-heartbeat",
        "/v1/fleet/send-node-heartbeat/",
        "/v1/fleet/send%2dnode-heartbeat",
        "/V1/FLEET/send-node-heartbeat",
        "/v1/fleet/send-node-heartbeat?x=1",
        "/v1/fleet/send-node-heartbeat;x",
        "https://127.0.0.1/v1/control/start-run",
        "/v1/fleet\\..\\control\\start-run",
        "/docs",
        "/openapi.json",
        "/",
        "*",
    ],
)
def test_only_the_listed_paths_are_there_even_for_a_member(door: RunningGateway, key: NodeKey, target: str) -> None:
    before = len(door.upstream.seen)
    head, _, body = raw(door, signed(key, "POST", target)).partition(b"\r\n\r\n")
    assert head.split(b" ")[1] in (b"404", b"400"), head
    assert b"control" not in body
    assert len(door.upstream.seen) == before


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "CONNECT"])
def test_only_post_is_there(door: RunningGateway, key: NodeKey, method: str) -> None:
    before = len(door.upstream.seen)
    assert raw(door, signed(key, method, HEARTBEAT)).split(b" ")[1] in (b"404", b"400")
    assert len(door.upstream.seen) == before


# Enrolment


def test_an_invite_lets_its_domain_in_once(door: RunningGateway) -> None:
    invite, mine = door.invite("grid"), NodeKey()
    answer = door.enrol(invite, mine, public_key=f"{mine.line} ann@host")
    assert answer.status_code == 200
    member = read_members(door.folder.path)["grid"]
    assert (member.public_key, answer.json()) == (mine.line, {"node_id": member.node_id, "name": "care"})
    assert door.enrol(invite, mine).json() == answer.json()  # whose first answer was lost on the way
    again = door.enrol(invite, NodeKey())
    assert again.status_code == 403
    assert "one that was used" in again.json()["error"]
    assert read_members(door.folder.path)["grid"] == member


def refused(door: RunningGateway, answer: httpx.Response, domain: str, word: str) -> None:
    assert answer.status_code == 403
    assert word in answer.json()["error"]
    assert domain not in read_members(door.folder.path)


def test_an_expired_replaced_or_unknown_invite_is_refused(door: RunningGateway) -> None:
    refused(door, door.enrol(door.invite("education", days=-0.001), NodeKey()), "education", "one that ended")
    first, second = door.invite("education"), door.invite("education")
    refused(door, door.enrol(first, NodeKey()), "education", "a later invite replaced")
    refused(door, door.enrol(second, NodeKey(), token="A" * 43), "education", "not known here")


def test_what_does_not_fit_the_invite_is_refused_and_leaves_it_open(door: RunningGateway) -> None:
    invite = door.invite("education")
    wrong = {**vars(FINGERPRINT), "tokenizer": "e" * 64}
    refused(door, door.enrol(invite, NodeKey(), domain="construction"), "construction", "the domain that the invite")
    refused(door, door.enrol(invite, NodeKey(), app_sha256="e" * 64), "education", f"app {APP[:12]}, got eeeeeeeeeeee")
    refused(door, door.enrol(invite, NodeKey(), fingerprint=wrong), "education", "base tokenizer bbbbbbbbbbbb")
    refused(door, door.enrol(invite, NodeKey(ec.SECP256R1())), "education", "P-384")
    refused(door, door.enrol(invite, NodeKey(), public_key="ssh-rsa AAAA"), "education", "P-384")
    assert door.enrol(invite, NodeKey()).status_code == 200


def test_a_body_that_is_no_enrolment_is_refused(door: RunningGateway) -> None:
    with door.client() as client:
        for body in (b"", b"{", b"[]", b'{"token": 1}', json.dumps({"x": "y"}).encode()):
            assert client.post("/enrol", content=body).status_code == 400


def test_a_token_is_used_up_only_when_registration_succeeded(tmp_path: Path) -> None:
    broken = [True]

    def register(line: str) -> int:
        if broken:
            raise FederationError(
                "Flower failed", expected="x", got="y", where="/home/ann/federation", fix="Try again."
            )
        return 5

    with running_gateway(tmp_path / "fed", LIMITS, register) as made:
        invite, mine = made.invite("grid"), NodeKey()
        answer = made.enrol(invite, mine)
        assert (answer.status_code, "grid" in read_members(made.folder.path)) == (500, False)
        assert "ann" not in answer.text  # where the coordinator keeps things is for its own log
        broken.clear()
        assert made.enrol(invite, mine).json()["node_id"] == 5


def test_two_enrolments_at_once_give_one_winner(door: RunningGateway) -> None:
    invite, answers = door.invite("construction"), []
    keys = [NodeKey() for _ in range(4)]
    before = len(door.registered)
    threads = [in_background(lambda k=k: answers.append((k, door.enrol(invite, k)))) for k in keys]
    for thread in threads:
        thread.join(30.0)
    won = [k for k, a in answers if a.status_code == 200]
    assert (len(answers), len(won)) == (4, 1)
    assert door.registered[before:] == [won[0].line]
    assert all_members(door.folder.path)["construction"].public_key == won[0].line


def test_many_enrolments_from_one_address_are_slowed(tmp_path: Path) -> None:
    with running_gateway(tmp_path / "fed", Limits(enrols_per_minute=3.0)) as made:
        invite = made.invite("grid")
        codes = [made.enrol(invite, NodeKey(), token="A" * 43).status_code for _ in range(5)]
        assert codes == [403, 403, 403, 429, 429]


def test_many_wrong_paths_from_one_address_are_slowed(tmp_path: Path) -> None:
    with running_gateway(tmp_path / "fed", Limits(refusals_per_minute=3.0)) as made, made.client() as client:
        assert [client.get("/admin").status_code for _ in range(5)] == [404, 404, 404, 429, 429]


# Greed and slowness


def test_a_body_that_is_too_large_is_cut_off(door: RunningGateway, key: NodeKey) -> None:
    path = "/v1/fleet/push-object"
    with door.client() as client:
        room = 200_000 - pushed(key, as_record(b"x" * 190_000)).ByteSize()
        largest = pushed(key, as_record(b"x" * (190_000 + room))).SerializeToString()
        fits = client.post(path, content=largest, headers=key.headers())
        assert (fits.status_code, door.upstream.seen[-1]) == (200, ("POST", path, 200_000))
        before = len(door.upstream.seen)
        assert client.post(path, content=b"x" * 200_001, headers=key.headers()).status_code == 413
    chunked = (b"%x\r\n" % 50_000 + b"x" * 50_000 + b"\r\n") * 5 + b"0\r\n\r\n"
    request = signed(key, "POST", path, "transfer-encoding: chunked") + chunked
    assert raw(door, request).split(b" ")[1] == b"413"
    with door.client() as client:
        assert client.post("/enrol", content=b"x" * 4097).status_code == 413
        assert client.post(PULL, content=b"x" * 2001, headers=key.headers()).status_code == 413
    assert len(door.upstream.seen) == before


@pytest.mark.parametrize("path", ["/v1/fleet/push-object", PULL, "/enrol"])
def test_a_body_that_does_not_come_is_cut_off(door: RunningGateway, key: NodeKey, path: str) -> None:
    request = signed(key, "POST", path, "content-length: 100") + b"only this"
    assert raw(door, request).split(b" ")[1] == b"408"


def test_headers_that_do_not_come_are_cut_off(door: RunningGateway) -> None:
    for begun in (b"", b"POST /enrol HTTP/1.1\r\nhost: fed\r\n"):
        began = time.monotonic()
        assert raw(door, begun) == b""
        assert time.monotonic() - began < 8.0


def test_old_tls_and_plain_http_are_refused(door: RunningGateway) -> None:
    old = ssl.create_default_context(cafile=str(door.folder.ca))
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", door.port), timeout=10.0) as plain,
        pytest.raises(ssl.SSLError, match=r"ALERT_PROTOCOL_VERSION|EOF"),  # the server refuses, not our own library
    ):
        old.wrap_socket(plain, server_hostname="127.0.0.1")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{door.port}/health", trust_env=False)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"https://127.0.0.1:{door.port}/health", trust_env=False)  # by no authority that is known
    with door.client() as client:
        assert client.get("/health").status_code == 200


# Waiting for work


def test_a_question_for_work_is_held_until_there_is_some(door: RunningGateway, key: NodeKey) -> None:
    got: list[tuple[bytes, float]] = []

    def ask() -> None:
        began = time.monotonic()
        with door.client() as client:
            answer = client.post(PULL, content=body_of(key, PULL), headers=key.headers())
        got.append((answer.content, time.monotonic() - began))

    before = door.upstream.answered
    asking = in_background(ask)
    assert wait_until(lambda: door.upstream.answered >= before + 3)
    assert not got
    door.upstream.work.append(b"train")
    asking.join(20.0)
    assert got[0][0] == b"train"
    with door.client() as client:
        client.post(GET_RUN, content=body_of(key, GET_RUN), headers=key.headers())
    ask()
    content, seconds = got[1]
    assert content == b""
    assert LIMITS.hold_seconds <= seconds < LIMITS.hold_seconds + 8.0


def test_a_question_for_an_object_is_held_while_it_is_on_its_way(door: RunningGateway, key: NodeKey) -> None:
    """A node would sleep 1 s after the answer that it is; one that is as short goes through. Red: no holding."""

    def ask() -> bytes:
        with door.client() as client:
            return client.post(PULL_OBJECT, content=body_of(key, PULL_OBJECT), headers=key.headers()).content

    for there in (b"the object", b"\x08\x02", b""):
        door.upstream.objects = [there, b"\x08\x01", b"\x08\x01"]
        assert ask() == there and not door.upstream.objects
    door.upstream.objects = [b"\x08\x01"] * 1000
    assert ask() == b"\x08\x01"
    assert 3 < len(door.upstream.objects) < 1000
    door.upstream.objects = []


def test_a_large_answer_goes_through_in_pieces(
    door: RunningGateway, key: NodeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red: a gateway that reads an answer whole, or on and on, while nobody takes what it has read."""
    read, held, take, answer_request = [0], [0], UNIXSocketStream.receive, Gateway.__call__

    async def taken(self: UNIXSocketStream, max_bytes: int = 65536) -> bytes:
        data = await take(self, max_bytes)
        read[0] += len(data)
        held.append(read[0])
        return data

    async def answered(self: Gateway, scope: Any, receive: Any, send: Any) -> None:
        async def counted(message: Any) -> None:
            await send(message)
            read[0] -= len(message.get("body", b""))

        await answer_request(self, scope, receive, counted)

    monkeypatch.setattr(UNIXSocketStream, "receive", taken)
    monkeypatch.setattr(Gateway, "__call__", answered)
    door.upstream.objects.append(b"x" * 64_000_000)
    with door.client(timeout=60.0) as client:
        answer = client.post(PULL_OBJECT, content=body_of(key, PULL_OBJECT), headers=key.headers())
    assert len(answer.content) == 64_000_000 and len(held) > 100
    assert max(held) < 1_000_000


def test_nothing_is_asked_for_a_client_that_has_left(door: RunningGateway, key: NodeKey) -> None:
    trusted = ssl.create_default_context(cafile=str(door.folder.ca))
    with (
        socket.create_connection(("127.0.0.1", door.port)) as plain,
        trusted.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        before = door.upstream.answered
        connection.sendall(signed(key, "POST", PULL, body=body_of(key, PULL)))
        assert wait_until(lambda: door.upstream.answered >= before + 2)
    assert wait_until(lambda: door.gateway.num_waiting == 0)
    door.upstream.work.append(b"kept")
    asked = door.upstream.answered
    time.sleep(10 * LIMITS.ask_seconds)
    assert (door.upstream.answered, door.upstream.work) == (asked, [b"kept"])
    door.upstream.work.clear()


def test_who_does_not_read_its_answer_is_cut_off(tmp_path: Path) -> None:
    """A member held twelve connections to SuperLink, each with an object, for as long as it liked. Red: no such limit."""
    with running_gateway(tmp_path, replace(LIMITS, answer_seconds=1.0)) as made:
        slow = made.member("slow")
        trusted = ssl.create_default_context(cafile=str(made.folder.ca))
        made.upstream.objects = [bytes(16 << 20)]
        account = made.gateway.members._accounts.setdefault(slow.node_id, _Account())
        with (
            socket.create_connection(("127.0.0.1", made.port)) as plain,
            trusted.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(signed(slow, "POST", PULL_OBJECT, body=body_of(slow, PULL_OBJECT)))
            assert wait_until(lambda: account.num_requests == 1)
            assert wait_until(lambda: account.num_requests == 0)


def test_work_is_delivered_again_until_it_has_arrived(door: RunningGateway) -> None:
    """SuperLink gives it once. Red: it is lost with the answer, or delivered for ever, or to another node."""
    mine, other = door.member("handed"), door.member("handed-other")
    with door.client() as client:

        def ask(key: NodeKey) -> bytes:
            return client.post(PULL, content=body_of(key, PULL), headers=key.headers()).content

        trusted = ssl.create_default_context(cafile=str(door.folder.ca))
        with (
            socket.create_connection(("127.0.0.1", door.port)) as plain,
            trusted.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(signed(mine, "POST", PULL, body=body_of(mine, PULL)))
            door.upstream.work += [b"second", b"first"]
            assert wait_until(lambda: door.upstream.work == [b"second"])
        assert client.post(HEARTBEAT, content=body_of(mine, HEARTBEAT), headers=mine.headers()).status_code == 200
        assert [ask(mine), ask(mine)] == [b"first", b"first"]
        assert door.upstream.work == [b"second"]
        assert client.post(GET_RUN, content=body_of(other, GET_RUN), headers=other.headers()).status_code == 200
        assert ask(mine) == b"first"
        for _ in range(2):  # the second says nothing of what comes after
            assert (
                client.post(PULL_OBJECT, content=body_of(mine, PULL_OBJECT), headers=mine.headers()).status_code == 200
            )
        assert ask(other) == b"second"
        assert ask(mine) == b""


def test_an_upstream_that_is_away_can_be_tried_again(tmp_path: Path) -> None:
    """502 is what Flower's nodes wait and try again after."""
    with running_gateway(tmp_path / "fed", LIMITS) as made:
        mine = made.member("grid")
        made.gateway.upstream.unlink()
        with made.client() as client:
            for path in (HEARTBEAT, PULL):
                assert client.post(path, content=body_of(mine, path), headers=mine.headers()).status_code == 502
            assert client.get("/health").status_code == 200


def test_another_upstream_is_not_believed(tmp_path: Path) -> None:
    """Whoever takes SuperLink's place has no certificate for it."""
    with running_gateway(tmp_path / "one", LIMITS) as made, running_gateway(tmp_path / "two", LIMITS) as other:
        mine = made.member("grid")
        made.gateway.upstream.unlink()
        made.gateway.upstream.symlink_to(other.gateway.upstream)
        with made.client() as client:
            assert client.post(HEARTBEAT, content=body_of(mine, HEARTBEAT), headers=mine.headers()).status_code == 502
        assert other.upstream.seen == []
