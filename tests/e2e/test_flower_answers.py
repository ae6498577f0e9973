"""Flower's node and a coordinator that answers with errors and garbage: it asks again, and takes the right answer.

Red in all of them: Flower's own client gives up, or takes what is not there for an answer.
"""

from __future__ import annotations

import gzip
import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.proto.node_pb2 import Node
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_client import FleetHttpClient

from cogen.deploy.certificates import ensure_certificate
from cogen.deploy.folder import FederationFolder
from cogen.flower.patches import apply
from cogen.flower.patches.answers import REFUSED_KEY
from tests.e2e.test_flower_retries import RETRY, breaking, read_request

NODE = Node(node_id=7)
ID, CONTENT = hashlib.sha256(b"whole").hexdigest(), b"whole"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FederationFolder:
    made = FederationFolder(tmp_path / "federation")
    made.create()
    ensure_certificate(made, "localhost")
    monkeypatch.setattr(fleet_http_connection, RETRY, getattr(fleet_http_connection, RETRY))
    for name in ("_send", "_unary_unary"):
        monkeypatch.setattr(ProtobufClient, name, getattr(ProtobufClient, name))
    apply("supernode_retry", "supernode_sound_answers", "supernode_fitting_answers")
    return made


def said(body: bytes, status: str = "200 OK", kind: str = "application/protobuf", more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\ncontent-type: {kind}\r\nconnection: close\r\n{more}\r\n"
    )
    return head.encode() + body


WORK = fleet_pb2.PullMessagesResponse(
    messages_list=[message_pb2.Message(metadata=message_pb2.Metadata(message_id=ID))],
    message_object_trees=[message_pb2.ObjectTree(object_id=ID)],
)


def client_at(port: int, folder: FederationFolder) -> FleetHttpClient:
    return FleetHttpClient.from_server_address(f"localhost:{port}", False, folder.ca.read_bytes(), [])


@contextmanager
def endless(folder: FederationFolder, head: bytes, taken: list[int]) -> Iterator[int]:
    """A server by TLS whose answer has no end but that of the test, 100 MB; `taken` counts the bytes that were sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder.server, folder.server_key)

    def serve() -> None:
        with suppress(OSError):
            plain, _ = listener.accept()
            with context.wrap_socket(plain, server_side=True) as connection:
                read_request(connection)
                connection.sendall(head)
                while taken[0] < 100 << 20:
                    connection.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
                    taken[0] += 65536

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        yield listener.getsockname()[1]
        serving.join(20.0)


def answer_to(port: int, folder: FederationFolder, name: str, request: Any) -> Any:
    """What the node's client gets to its request, with as many attempts as it takes."""
    invoker = getattr(fleet_http_connection, RETRY)()
    invoker.wait_function = lambda seconds: None
    with client_at(port, folder) as client:
        return invoker.invoke(getattr(client, name), request)


def message_of(num_records: int) -> fleet_pb2.PullMessagesResponse:
    """Work with so many records; a message has up to 64."""
    tree = message_pb2.ObjectTree(object_id=ID, children=[message_pb2.ObjectTree(object_id="1" * 64)])
    tree.children[0].children.extend(message_pb2.ObjectTree(object_id=f"{i:064x}") for i in range(num_records))
    return fleet_pb2.PullMessagesResponse(messages_list=WORK.messages_list, message_object_trees=[tree])


def deep(levels: int) -> fleet_pb2.PullMessagesResponse:
    tree = message_pb2.ObjectTree(object_id=f"{levels:064x}")
    for level in range(levels - 1, 0, -1):
        tree = message_pb2.ObjectTree(object_id=ID if level == 1 else f"{level:064x}", children=[tree])
    return fleet_pb2.PullMessagesResponse(messages_list=WORK.messages_list, message_object_trees=[tree])


STATUSES = ["500 x", "501 x", "502 x", "503 x", "504 x", "520 x", "599 x", "408 x", "425 x", "429 x"]
BROKEN = {
    **{status: said(b"", status) for status in STATUSES},
    "a page": said(b"<html>sorry</html>", kind="text/html"),
    "a page with the type of an answer": said(b"<html>sorry</html>"),
    "nothing, without a type": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    "json": said(b"{}", kind="application/json"),
    "half an answer": said(WORK.SerializeToString()[:-5]),
    "random bytes": said(bytes(range(255, 150, -1))),
    "another compression": said(b"not gzip", more="content-encoding: gzip\r\n"),
    "half a compression": said(gzip.compress(WORK.SerializeToString())[:-9], more="content-encoding: gzip\r\n"),
    "elsewhere": said(b"", "302 x", more="location: /v1/fleet/pull-messages\r\n"),
    "another port": said(b"", "307 x", more="location: http://localhost:1/\r\n"),
    "no http": b"\x00\x01\x02garbage\r\n\r\n",
    "a bad header": b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
    "too short": said(WORK.SerializeToString()).replace(b"content-length: 1", b"content-length: 9"),
    "cut in the handshake": b"",
    "a message without its objects": said(
        fleet_pb2.PullMessagesResponse(messages_list=WORK.messages_list).SerializeToString()
    ),
    "the objects of another message": said(
        fleet_pb2.PullMessagesResponse(
            messages_list=WORK.messages_list, message_object_trees=[message_pb2.ObjectTree(object_id="0" * 64)]
        ).SerializeToString()
    ),
    "two messages": said(WORK.SerializeToString() * 2),
    "a sound answer, compressed": said(gzip.compress(WORK.SerializeToString()), more="content-encoding: gzip\r\n"),
    "elsewhere, with a sound body": said(WORK.SerializeToString(), "302 x", more="location: /\r\n"),
    "more objects than a message has": said(message_of(66).SerializeToString()),
    "deeper objects than a message has": said(deep(4).SerializeToString()),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_node_asks_again_after_a_broken_answer(folder: FederationFolder, name: str) -> None:
    with breaking(folder, [BROKEN[name]] * 2, said(WORK.SerializeToString())) as (port, asked):
        assert answer_to(port, folder, "PullMessages", fleet_pb2.PullMessagesRequest(node=NODE)) == WORK
    assert asked[0] >= 3


RUN = run_pb2.GetRunResponse(run=run_pb2.Run(run_id=5, fab_hash=ID))
FAB = fab_pb2.GetFabResponse(fab=fab_pb2.Fab(hash_str=ID, content=CONTENT))
OBJECT = message_pb2.PullObjectResponse(object_found=True, object_available=True, object_content=CONTENT)
OTHER = message_pb2.PullObjectResponse(object_found=True, object_available=True, object_content=b"other")
UNFIT: dict[str, tuple[Any, Any, Any]] = {  # a request, an answer that does not fit it, and one that does
    "ActivateNode": (
        fleet_pb2.ActivateNodeRequest(public_key=b"key"),
        fleet_pb2.ActivateNodeResponse(),
        fleet_pb2.ActivateNodeResponse(node_id=7),
    ),
    "PushMessages": (
        fleet_pb2.PushMessagesRequest(node=NODE),
        fleet_pb2.PushMessagesResponse(),
        fleet_pb2.PushMessagesResponse(session_id="s", objects_to_push=[ID]),
    ),
    "GetRun": (run_pb2.GetRunRequest(node=NODE, run_id=5), run_pb2.GetRunResponse(), RUN),
    "GetFab": (fab_pb2.GetFabRequest(node=NODE, hash_str=ID), fab_pb2.GetFabResponse(), FAB),
    "PullObject": (message_pb2.PullObjectRequest(node=NODE, object_id=ID), OTHER, OBJECT),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_node_asks_again_after_an_answer_to_nothing(folder: FederationFolder, name: str) -> None:
    """An empty body is a protobuf, too: node 0, a reply that counts as sent, a run without an app."""
    request, unfit, right = UNFIT[name]
    with breaking(folder, [said(unfit.SerializeToString())] * 2, said(right.SerializeToString())) as (port, asked):
        assert answer_to(port, folder, name, request) == right
    assert asked == [3]


def test_what_superlink_means_is_taken_as_before(folder: FederationFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """No work, an object that is gone or on its way, a refusal."""
    nothing = fleet_pb2.PullMessagesResponse()
    for right in (nothing, WORK):
        with breaking(folder, [], said(right.SerializeToString())) as (port, asked):
            assert answer_to(port, folder, "PullMessages", fleet_pb2.PullMessagesRequest(node=NODE)) == right
        assert asked == [1]
    on_its_way, gone = message_pb2.PullObjectResponse(object_found=True), message_pb2.PullObjectResponse()
    for right, attempts in ((on_its_way, 1), (gone, 4)):
        with breaking(folder, [], said(right.SerializeToString())) as (port, asked):
            request = message_pb2.PullObjectRequest(node=NODE, object_id=ID)
            assert answer_to(port, folder, "PullObject", request) == right
        assert asked == [attempts]
    for status in ("400 x", "404 x", "412 x", "413 x"):
        error = pytest.raises(httpx.HTTPStatusError)
        with breaking(folder, [], said(b"{}", status, "application/json")) as (port, asked), error:
            answer_to(port, folder, "GetRun", run_pb2.GetRunRequest(node=NODE, run_id=5))
        assert asked == [1]
    error = pytest.raises(httpx.HTTPStatusError)
    with breaking(folder, [], said(b"", "401 x")) as (port, _), client_at(port, folder) as client, error:
        client.SendNodeHeartbeat(heartbeat_pb2.SendNodeHeartbeatRequest(node=NODE))
    assert REFUSED_KEY in capsys.readouterr().err  # `cogen join` looks for it


@pytest.mark.parametrize("right", [message_of(64), deep(3)])
def test_the_largest_message_is_taken(folder: FederationFolder, right: fleet_pb2.PullMessagesResponse) -> None:
    with breaking(folder, [], said(right.SerializeToString())) as (port, asked):
        assert answer_to(port, folder, "PullMessages", fleet_pb2.PullMessagesRequest(node=NODE)) == right
    assert asked == [1]


ENDLESS = (
    b"HTTP/1.1 %s\r\ncontent-type: application/protobuf\r\nconnection: close\r\n%stransfer-encoding: chunked\r\n\r\n"
)


@pytest.mark.parametrize(
    ("name", "status", "more", "most"),
    [
        ("SendNodeHeartbeat", b"200 OK", b"", 8 << 20),
        ("PullMessages", b"200 OK", b"", 8 << 20),
        ("PullObject", b"200 OK", b"", 25 << 20),
        ("GetFab", b"200 OK", b"", 19 << 20),
        ("PullMessages", b"302 x", b"location: /elsewhere\r\n", 8 << 20),
        ("PullMessages", b"200 OK", b"content-encoding: gzip\r\n", 8 << 20),
        ("GetRun", b"400 x", b"", 8 << 20),
    ],
)
def test_an_answer_without_an_end_fills_no_memory(
    folder: FederationFolder, name: str, status: bytes, more: bytes, most: int
) -> None:
    """A node closes the connection after the most bytes of an answer, and the few MB that the system holds. Red: the node reads on until it is killed."""
    taken = [0]
    requests = {
        "SendNodeHeartbeat": heartbeat_pb2.SendNodeHeartbeatRequest(node=NODE, heartbeat_interval=30),
        "PullMessages": fleet_pb2.PullMessagesRequest(node=NODE),
        **{kind: asked for kind, (asked, _, _) in UNFIT.items()},
    }
    error = pytest.raises((httpx.TransportError, httpx.HTTPStatusError))
    with endless(folder, ENDLESS % (status, more), taken) as port, client_at(port, folder) as client, error:
        getattr(client, name)(requests[name])
    assert taken[0] <= most


STORED = message_pb2.PushObjectResponse(stored=True)
THERE = heartbeat_pb2.SendNodeHeartbeatResponse(success=True)


@pytest.mark.parametrize(
    ("name", "request_", "right"),
    [
        ("PullObject", message_pb2.PullObjectRequest(node=NODE, object_id=ID), OBJECT),
        ("PushObject", message_pb2.PushObjectRequest(node=NODE, object_id=ID), STORED),
        ("SendNodeHeartbeat", heartbeat_pb2.SendNodeHeartbeatRequest(node=NODE), THERE),
    ],
)
def test_an_empty_answer_is_believed_at_the_fourth_time(
    folder: FederationFolder, name: str, request_: Any, right: Any
) -> None:
    """It is what a corrupt coordinator says, and SuperLink of a node or an object that it does not know."""
    with breaking(folder, [said(b"")] * 3, said(right.SerializeToString())) as (port, asked):
        assert answer_to(port, folder, name, request_) == right
        assert asked == [4]
    with breaking(folder, [], said(b"")) as (port, asked):
        assert answer_to(port, folder, name, request_) == type(right)()
        assert answer_to(port, folder, name, request_) == type(right)()
        assert asked == [8]


@pytest.mark.parametrize("name", ["500 x", "a page", "random bytes", "half a compression", "no http"])
def test_a_heartbeat_that_is_not_answered_is_no_end(folder: FederationFolder, name: str) -> None:
    """Flower's own function takes a TransportError for a heartbeat to repeat, and raises the rest."""
    error = pytest.raises(httpx.TransportError)
    with breaking(folder, [], BROKEN[name]) as (port, _), client_at(port, folder) as client, error:
        client.SendNodeHeartbeat(heartbeat_pb2.SendNodeHeartbeatRequest(node=NODE, heartbeat_interval=30))
