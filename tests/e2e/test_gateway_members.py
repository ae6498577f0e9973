"""What a member can do to others through the gateway: nothing that an honest node would not do.

Each test is an attack. Red in all of them: the gateway forwards the request, as it did before it decoded any.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator

import pytest
from flwr.proto import fleet_pb2, recorddict_pb2
from flwr.proto.message_pb2 import ObjectTree

from cogen.deploy.limits import Limits
from cogen.flower.fleet_requests import REQUESTS
from cogen.protocol.wire import MAX_PIECES
from tests.e2e.test_gateway import raw, signed
from tests.node_requests import (
    ASKED,
    RUN,
    announcement,
    as_object,
    as_record,
    body_of,
    failure,
    honest,
    pushed,
    records,
    reply_to,
    sha256,
    tree,
)
from tests.running_gateway import NodeKey, RunningGateway, running_gateway
from tests.waiting import in_background, wait_until

LIMITS = Limits(enrols_per_minute=1e6, refusals_per_minute=1e6, announcements_per_minute=1e6)
FLEET = "/v1/fleet/"
ANNOUNCE, PUSH = "push-messages", "push-object"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(tmp_path_factory.mktemp("gate"), LIMITS) as made:
        yield made


@pytest.fixture(scope="module")
def evil(door: RunningGateway) -> NodeKey:
    return door.member("evil")


@pytest.fixture(scope="module")
def victim(door: RunningGateway) -> NodeKey:
    return door.member("victim")


def say(door: RunningGateway, key: NodeKey, name: str, body: bytes, **headers: str) -> int:
    """The status of one request, which SuperLink has seen if and only if it is 200."""
    before = len(door.upstream.seen)
    door.upstream.node_id = key.node_id
    with door.client(timeout=30.0) as client:
        status = client.post(FLEET + name, content=body, headers={**key.headers(), **headers}).status_code
    assert (len(door.upstream.seen) > before) == (status == 200)
    return status


@pytest.mark.parametrize("name", REQUESTS)
def test_what_an_honest_node_says_goes_through(door: RunningGateway, evil: NodeKey, name: str) -> None:
    door.upstream.work = [b"work"]
    assert say(door, evil, name, body_of(evil, name)) == 200
    door.upstream.work.clear()


def test_an_honest_error_and_the_largest_reply_go_through(door: RunningGateway, evil: NodeKey) -> None:
    assert say(door, evil, ANNOUNCE, failure(evil, "x" * 60_000).SerializeToString()) == 200
    assert say(door, evil, ANNOUNCE, announcement(evil, records(MAX_PIECES)).SerializeToString()) == 200
    reply = as_object(reply_to(evil), "ab" * 32)
    names = f"RecordDict {'a' * 64},{'b' * 64} 20".encode() + b"\x00" + b'{"0": "a", "1": "b"}'
    for content in (reply, names, as_record(b"x" * (16 << 20))):
        assert say(door, evil, PUSH, pushed(evil, content).SerializeToString()) == 200


@pytest.mark.parametrize("name", [n for n in REQUESTS if n != "activate-node"])
def test_a_member_names_no_other_node(door: RunningGateway, evil: NodeKey, victim: NodeKey, name: str) -> None:
    """SuperLink refuses that too; two maps of keys to nodes must agree."""
    assert say(door, evil, name, body_of(victim, name)) == 400


def test_a_member_activates_its_own_key_alone(door: RunningGateway, evil: NodeKey, victim: NodeKey) -> None:
    assert say(door, evil, "activate-node", body_of(victim, "activate-node")) == 400
    door.upstream.node_id = victim.node_id  # SuperLink has another node for this key than members.json
    with door.client() as client:
        body, headers = body_of(evil, "activate-node"), evil.headers()
        assert client.post(f"{FLEET}activate-node", content=body, headers=headers).status_code == 502


@pytest.mark.parametrize(
    "changed",
    [
        {"src_node_id": 1, "reply_to_message_id": ""},  # an instruction in SuperLink's name
        {"src_node_id": 1},
        {"reply_to_message_id": ""},
        {"reply_to_message_id": "0x" + "a" * 62},  # which int(..., 16) takes for a hash
        {"dst_node_id": "victim"},
        {"src_node_id": "victim"},
        {"run_id": 0},
        {"message_id": ASKED},  # the objects of one message under the id of another
        {"message_type": "train.other"},
        {"message_type": "system"},
        {"group_id": ""},
        {"group_id": "x" * 32},
        {"group_id": "0f" * 16 + "0"},
        {"ttl": float("inf")},
        {"ttl": float("nan")},
        {"ttl": -1.0},
        {"created_at": 1e300},
        {"created_at": float("nan")},
    ],
)
def test_a_member_sends_its_own_replies_and_nothing_else(
    door: RunningGateway, evil: NodeKey, victim: NodeKey, changed: dict[str, object]
) -> None:
    """In an announcement, an error and the message's own object, which the server app reads."""
    fields = {k: victim.node_id if v == "victim" else v for k, v in changed.items()}
    for made in (announcement(evil, **fields), failure(evil, **fields)):
        assert say(door, evil, ANNOUNCE, made.SerializeToString()) == 400
    if "message_id" not in fields:
        inner = as_object(reply_to(evil, **fields))
        assert say(door, evil, PUSH, pushed(evil, inner).SerializeToString()) == 400


def test_a_message_object_of_another_run_or_form_is_refused(door: RunningGateway, evil: NodeKey) -> None:
    reply = reply_to(evil).SerializeToString()
    for content in (
        as_object(reply_to(evil, run_id=RUN + 1)),
        b"Message  9999999999999\x00" + reply,
        b"Message x 1\x00" + reply,
        b"Message " + b"a" * 64 + b"," + b"b" * 64 + b" 1\x00" + reply,
        b"Message  3\x00" + reply + b"\x78\x01",
        b"Message  3\x00\xff",
    ):
        assert say(door, evil, PUSH, pushed(evil, content).SerializeToString()) == 400


@pytest.mark.parametrize(
    "content",
    [
        as_record(b"", key="other"),
        as_record(b"", sint_list=recorddict_pb2.SintList(vals=[1000] * 100)),
        as_record(b"", bytes_list=recorddict_pb2.BytesList(vals=[b""] * 100)),
        as_record(b"", string="text"),
        as_record(b"whole") + as_record(b"whole").partition(b"\x00")[2],
        as_record(b"whole").replace(b"  ", b" " + b"a" * 64 + b" "),
        b"ConfigRecord  0\x00",
        b"RecordDict  20000\x00" + b"[" * 20_000,
        b"RecordDict " + b",".join([b"a" * 64] * 66) + b" 2\x00{}",
        b"ArrayRecord  2\x00{}",
        b"Array  2\x00{}",
        b"ArrayChunk  4\x00long",
        b"MetricRecord  0\x00",
        b"whole",
        b"",
    ],
)
def test_an_object_is_a_part_of_a_frame(door: RunningGateway, evil: NodeKey, content: bytes) -> None:
    """16 MiB of a list of numbers took 320 MiB at the server app, and a reply has 64 of them.

    Red: an object of any of Flower's kinds.
    """
    assert say(door, evil, PUSH, pushed(evil, content).SerializeToString()) == 400


@pytest.mark.parametrize("kind", ["query.hello", "query.suspend", "evaluate"])
def test_only_a_round_has_a_large_reply(door: RunningGateway, evil: NodeKey, kind: str) -> None:
    """Others fit one record. Red: a gigabyte in reply to a hello."""
    assert say(door, evil, ANNOUNCE, announcement(evil, records(1), message_type=kind).SerializeToString()) == 200
    assert say(door, evil, ANNOUNCE, announcement(evil, records(2), message_type=kind).SerializeToString()) == 400


def deep(depth: int) -> ObjectTree:
    made = tree(name=f"level {depth}")
    for level in reversed(range(depth)):
        made = tree(made, name=f"level {level}")
    return made


def test_an_announcement_is_bounded(door: RunningGateway, evil: NodeKey) -> None:
    """30,000 objects in 2 MB held SuperLink's database for a minute."""
    wide = ObjectTree(
        object_id=sha256(b"root"), children=[ObjectTree(object_id=os.urandom(32).hex()) for _ in range(30_000)]
    )
    assert say(door, evil, ANNOUNCE, announcement(evil, wide).SerializeToString()) == 413
    same = tree(name="record")
    refused = {
        "one record too many": records(MAX_PIECES + 1),
        "too deep": deep(3),
        "much too deep": deep(60),
        "twice": tree(tree(same, same, name="content")),
        "a cycle": tree(tree(tree(), name="content")),
        "no content": tree(),
        "two contents": tree(tree(name="a"), tree(name="b")),
        "no hash": tree(ObjectTree(object_id="0x" + "a" * 62)),
        "upper case": tree(ObjectTree(object_id="A" * 64)),
        "long": tree(ObjectTree(object_id="a" * 60_000)),
        "empty": tree(ObjectTree()),
    }
    for name, objects in refused.items():
        assert say(door, evil, ANNOUNCE, announcement(evil, objects).SerializeToString()) == 400, name
    several = announcement(evil)
    several.MergeFrom(announcement(evil, tree(tree(name="other"), name="another")))
    assert say(door, evil, ANNOUNCE, several.SerializeToString()) == 400
    for seconds in (float("nan"), float("inf"), -1.0):
        late = announcement(evil)
        late.clientapp_runtime_list[0] = seconds
        assert say(door, evil, ANNOUNCE, late.SerializeToString()) == 400
    assert say(door, evil, ANNOUNCE, failure(evil, "x" * 70_000).SerializeToString()) == 400
    both = failure(evil)
    both.message_object_trees[0].CopyFrom(records(1))
    assert say(door, evil, ANNOUNCE, both.SerializeToString()) == 400
    full = announcement(evil)
    full.messages_list[0].content.items.add(key="x")
    assert say(door, evil, ANNOUNCE, full.SerializeToString()) == 400


def test_an_object_has_its_own_id_and_a_session(door: RunningGateway, evil: NodeKey) -> None:
    """Without a session SuperLink looks for anybody's that waits for the object."""
    for changed in (
        {"object_id": ASKED},
        {"object_id": ""},
        {"session_id": ""},
        {"session_id": "x" * 36},
        {"run_id": 0},
        {"object_content": b""},
    ):
        assert say(door, evil, PUSH, pushed(evil, **changed).SerializeToString()) == 400, changed


@pytest.mark.parametrize("name", REQUESTS)
def test_bytes_besides_a_requests_fields_are_refused(door: RunningGateway, evil: NodeKey, name: str) -> None:
    """Unknown fields, a field twice (the gateway could read one and SuperLink the other), a default, half a request."""
    body = body_of(evil, name)
    unknown, group = b"\x9a\x06\x03abc", b"\x9b\x06\x9c\x06"
    for made in (body + unknown, body + group, body + body, body[:-1], b"\xff" * 20, b"", body + b"\x00"):
        assert say(door, evil, name, made) == 400
    assert say(door, evil, name, body + b"\xf2\x07\xff\xff\xff\xff\x0f") == 400  # a length of 4 GB


def test_nested_unknown_fields_are_refused(door: RunningGateway, evil: NodeKey) -> None:
    inner = b"\x08" + fleet_pb2.DeactivateNodeRequest(node_id=evil.node_id).SerializeToString()[1:] + b"\x78\x01"
    assert say(door, evil, "pull-messages", b"\x0a" + bytes([len(inner)]) + inner) == 400


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1.0, 1800.0, 1e300, float("inf"), float("nan")])
def test_a_member_cannot_stay_connected_without_a_sign_of_life(
    door: RunningGateway, evil: NodeKey, seconds: float
) -> None:
    """A round would wait for a node that counts as there for half an hour after its end."""
    for name in ("activate-node", "send-node-heartbeat"):
        made = honest(evil)[name]
        made.heartbeat_interval = seconds
        assert say(door, evil, name, made.SerializeToString()) == 400


# Headers


def test_doubled_and_contradicting_headers_are_refused(door: RunningGateway, evil: NodeKey, victim: NodeKey) -> None:
    """The gateway checked the first key and acted on the last, so that evil took the victim's work."""
    door.upstream.work = [b"for the victim"]
    before, path, body = len(door.upstream.seen), f"{FLEET}pull-messages", body_of(evil, "pull-messages")
    length = f"content-length: {len(body)}"
    plain = [length, "accept: b", "content-type: application/protobuf", "x-anything: b"]
    for header in [
        f"flwr-public-key: {base64.b64encode(victim.pem).decode()}",
        f"FLWR-Public-Key: {base64.b64encode(victim.pem).decode()}",
        f"flwr-signature: {victim.headers()['flwr-signature']}",
        f"flwr-timestamp: {victim.headers()['flwr-timestamp']}",
        "content-type: text/plain",
        "accept: a",
        "transfer-encoding: chunked",
        "transfer-encoding: gzip",
        "content-length: 3",
        "host: other",
        "x-anything: a",
    ]:
        head = raw(door, signed(evil, "POST", path, *plain, header, body=body)).partition(b"\r\n")[0]
        assert head.split(b" ")[1] in (b"400", b"501"), (header, head)
    assert raw(door, signed(evil, "POST", path, "transfer-encoding: identity", body=body)).split(b" ")[1] in (
        b"400",
        b"501",
    )
    assert (len(door.upstream.seen), door.upstream.work) == (before, [b"for the victim"])
    door.upstream.work.clear()
    with door.client() as client:
        assert client.get("/health", headers=[("x", "1"), ("x", "2")]).status_code == 400


def test_a_compressed_body_is_refused(door: RunningGateway, evil: NodeKey) -> None:
    for how in ("gzip", "deflate", "br", "zstd", "gzip, gzip"):
        assert say(door, evil, "get-run", body_of(evil, "get-run"), **{"content-encoding": how}) == 415


def test_only_flowers_own_headers_reach_superlink(door: RunningGateway, evil: NodeKey) -> None:
    more = {"x-forwarded-for": "10.0.0.1", "cookie": "a", "traceparent": "b", "authorization": "c"}
    assert say(door, evil, "get-run", body_of(evil, "get-run"), accept="application/protobuf", **more) == 200
    got = door.upstream.headers.keys()
    assert {"flwr-public-key", "flwr-signature", "flwr-timestamp", "accept"} <= got and not more.keys() & got


# How much


def test_what_lies_unread_of_one_member_is_bounded(door: RunningGateway) -> None:
    """Until it has a new message; other members are not concerned."""
    door.gateway.members._limits = Limits(unread_bytes=250_000, announcements_per_minute=1e6)
    try:
        greedy, other = door.member("greedy"), door.member("other")
        large = [pushed(key, as_record(b"x" * 100_000)).SerializeToString() for key in (greedy, other)]
        assert [say(door, greedy, PUSH, large[0]) for _ in range(4)] == [200, 200, 413, 413]
        assert say(door, other, PUSH, large[1]) == 200
        door.upstream.work = [b"a message"]
        assert say(door, greedy, "pull-messages", body_of(greedy, "pull-messages")) == 200
        assert say(door, greedy, PUSH, large[0]) == 200
    finally:
        door.gateway.members._limits = LIMITS


def test_a_members_requests_are_counted_by_its_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Too many announcements, wrong requests or requests at all are its own loss, and nobody else's."""
    rare = Limits(announcements_per_minute=2.0, refusals_per_minute=3.0, member_requests_per_minute=8.0)
    with running_gateway(tmp_path_factory.mktemp("gate"), rare) as made:
        greedy, other = made.member("greedy"), made.member("other")
        said = [say(made, greedy, ANNOUNCE, announcement(greedy).SerializeToString()) for _ in range(3)]
        assert said == [200, 200, 429]
        assert [say(made, greedy, "get-run", b"wrong") for _ in range(4)] == [400, 400, 400, 429]
        assert [say(made, greedy, "get-run", body_of(greedy, "get-run")) for _ in range(2)] == [200, 429]
        for name in ("push-messages", "get-run", "push-object"):
            assert say(made, other, name, body_of(other, name)) == 200


def test_a_member_has_few_requests_at_the_same_time(tmp_path_factory: pytest.TempPathFactory) -> None:
    limits = Limits(member_requests=2, hold_seconds=20.0, ask_seconds=0.05)
    with running_gateway(tmp_path_factory.mktemp("gate"), limits) as made:
        greedy, other = made.member("greedy"), made.member("other")
        held = [
            in_background(lambda: say(made, greedy, "pull-messages", body_of(greedy, "pull-messages")))
            for _ in range(2)
        ]
        assert wait_until(lambda: made.gateway.num_waiting == 2)
        with made.client() as client:
            answer = client.post(f"{FLEET}get-run", content=body_of(greedy, "get-run"), headers=greedy.headers())
            assert answer.status_code == 429
            answer = client.post(f"{FLEET}get-run", content=body_of(other, "get-run"), headers=other.headers())
            assert answer.status_code == 200
        began = time.monotonic()
        made.upstream.work += [b"one", b"two"]
        for thread in held:
            thread.join(20.0)
        assert time.monotonic() - began < 15.0
