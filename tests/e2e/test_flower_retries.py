"""Flower's node on a connection that breaks: which errors are retried, and which end it."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore import date as corestate_date
from flwr.supercore import sql_mixin
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.state.schema.linkstate_models import MessageRes
from flwr.superlink.federation.noop_federation_manager import NoOpFederationManager
from flwr.superlink.grid import http_grid
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.runtime import run_clientapp
from sqlalchemy import insert

from cogen.deploy.certificates import ensure_certificate
from cogen.deploy.folder import FederationFolder
from cogen.errors import FederationError
from cogen.flower.patches import PATCHES, apply
from cogen.flower.patches.coordinator import CACHE_KIB
from cogen.flower.patches.domain import ShortSleeps
from cogen.flower.patches.patch import look_up

RETRY, GRID_PULL, APP_PULL, PRAGMAS, ANNOUNCE, STORE, GET = (
    PATCHES[name].places[0].replace(":", ".").rsplit(".", 1)[1]
    for name in (
        "supernode_retry",
        "grid_pull_checked",
        "clientapp_pull_soon",
        "superlink_database_cache",
        "superlink_announce_again",
        "superlink_store_again",
        "superlink_whole_replies",
    )
)

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nwhole"


def read_request(connection: socket.socket) -> None:
    """All of it, because closing a connection with unread bytes resets it."""
    said = b""
    while b"\r\n\r\n" not in said:
        if not (part := connection.recv(65536)):
            return
        said += part
    head, _, body = said.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    left = int(length[1]) - len(body) if length else 0
    while left > 0 and (part := connection.recv(left)):
        left -= len(part)


@contextmanager
def breaking(folder: FederationFolder, cuts: list[bytes], last: bytes = ANSWER) -> Iterator[tuple[int, list[int]]]:
    """A server by TLS that breaks off after each of `cuts`, without a goodbye; then it answers whole."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder.server, folder.server_key)
    left, asked = list(cuts), [0]

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                plain, _ = listener.accept()
                asked[0] += 1
                if left and not left[0]:  # not even a handshake
                    left.pop(0)
                    plain.close()
                    continue
                with suppress(OSError), context.wrap_socket(plain, server_side=True) as connection:
                    read_request(connection)
                    connection.sendall(left[0] if left else last)
                    if left:
                        left.pop(0)
                        socket.socket(fileno=connection.detach()).close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1], asked


@pytest.fixture
def folder(tmp_path: Path) -> FederationFolder:
    made = FederationFolder(tmp_path / "federation")
    made.create()
    ensure_certificate(made, "localhost")
    return made


def invoke(port: int, ca: Path) -> bytes:
    """A request as Flower's node makes it, patiently."""

    def ask(url: str) -> bytes:
        return client.get(url).raise_for_status().content

    apply("supernode_retry")
    invoker = getattr(fleet_http_connection, RETRY)()
    invoker.wait_function = lambda seconds: None
    with httpx.Client(verify=ssl.create_default_context(cafile=str(ca)), trust_env=False) as client:
        return bytes(invoker.invoke(ask, f"https://localhost:{port}/"))


def test_a_connection_that_breaks_is_tried_again(folder: FederationFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of an answer, before one, in the handshake. Red: Flower gives up at the first."""
    monkeypatch.setattr(fleet_http_connection, RETRY, getattr(fleet_http_connection, RETRY))
    with breaking(folder, [ANSWER[:-3], b"HTTP/1.1 200", b""]) as (port, asked):
        assert invoke(port, folder.ca) == b"whole"
        assert asked == [4]


LOST_NODE = """
import threading, time
import flwr.supernode.cli as cli

def gives_up():
    threading.Thread(target=time.sleep, args=(600,)).start()
    HOW

cli.flower_supernode = gives_up
from cogen.flower.supernode_process import main
main()
"""


HEART = """
from flwr.supercore.heartbeat import HeartbeatSender

    def failing():
        raise RuntimeError("gave up")

    HeartbeatSender(failing).start()
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ['raise RuntimeError("gave up")', 'print("gave up", file=sys.stderr)', HEART])
def test_a_node_that_stops_retrying_ends(how: str) -> None:
    """So that `cogen join` starts it again. Red: its HTTP server's thread keeps the process, which asks for nothing.

    By an error that Flower raises, by one that it logs before it returns, by one in its thread of heartbeats.
    """
    first, _, rest = how.strip().partition("\n")
    program = LOST_NODE.replace("    HOW", f"    import sys\n    {first}\n{rest}")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert "gave up" in done.stderr


def test_another_authority_is_not_asked_twice(
    folder: FederationFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_http_connection, RETRY, getattr(fleet_http_connection, RETRY))
    other = FederationFolder(tmp_path / "other")
    other.create()
    ensure_certificate(other, "localhost")
    with breaking(folder, []) as (port, asked), pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        invoke(port, other.ca)
    assert asked == [1]


def test_without_the_place_no_node_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fleet_http_connection, RETRY)
    with pytest.raises(FederationError, match="another version of flwr"):
        apply("supernode_retry")


def test_a_reply_is_looked_for_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """By Flower's own loop, over a state that has a reply after the fifth look. Red: half a second each time."""
    monkeypatch.setattr(start_client_internal, "time", time)
    apply("supernode_reply_soon")
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)

    class State:
        looks = 0

        def get_messages_legacy(self, *, is_reply: bool) -> list[object]:
            self.looks += 1
            if self.looks > 5:
                raise LookupError
            return []

    with pytest.raises(LookupError):
        start_client_internal._push_messages(State(), None, None, None)  # type: ignore[arg-type]
    assert len(slept) == 5 and sum(slept) < 1.0
    ShortSleeps().sleep(3)
    assert slept[-1] == 3 and ShortSleeps().monotonic() > 0


class OnItsWay:
    """An object that is there at the third look."""

    looks = 0

    def __call__(self, object_id: str) -> bytes:
        self.looks += 1
        if self.looks < 3:
            raise ObjectUnavailableError(object_id)
        return b"whole"


def objects_of(message: Message) -> dict[str, bytes]:
    """Ids and contents, the message last."""
    return {name: one.deflate() for name, one in get_all_nested_objects(message).items()}


def some_reply() -> Message:
    about = {"run_id": 5, "message_id": "", "src_node_id": 7, "dst_node_id": 1, "reply_to_message_id": "a" * 64}
    metadata = Metadata(**about, group_id="", created_at=1.0, ttl=1.0, message_type="train")
    return make_message(metadata=metadata, content=RecordDict({"0": ConfigRecord({"frame": b"the reply"})}))


def test_the_server_looks_soon_for_what_a_node_still_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """By Flower's own function, where its grid takes it from. Red: it sleeps one second, then two."""
    monkeypatch.setattr(http_grid, GRID_PULL, inflatable_utils.pull_objects)
    apply("grid_pull_checked")
    apply("grid_pull_checked")
    whole, looks = objects_of(some_reply()), {name: OnItsWay() for name in objects_of(some_reply())}

    def pull(name: str) -> bytes:
        looks[name](name)
        return whole[name]

    began = time.monotonic()
    assert getattr(http_grid, GRID_PULL)(list(whole), pull) == whole
    assert time.monotonic() - began < 1.6


def test_objects_that_make_no_message_are_an_error_of_their_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which Flower's grid turns into an error reply. Red: it raises something else, and the run fails for all."""
    monkeypatch.setattr(http_grid, GRID_PULL, inflatable_utils.pull_objects)
    apply("grid_pull_checked")
    whole = objects_of(some_reply())
    (*parts, message), record = whole, RecordDict({"0": ConfigRecord({"frame": b"x"})})
    children = f"{parts[-1]},{parts[-1]}"
    wrong = {
        "another object": record.deflate(),
        "random bytes": bytes(range(256)),
        "nothing": b"",
        "no child": whole[message].replace(parts[-1].encode(), b""),
        "a child twice": whole[message].replace(parts[-1].encode(), children.encode()),
        "an unknown type": whole[message].replace(b"Message", b"Massage"),
        "a deep type": b"RecordDict  2\x00[]",
        "half of it": whole[message][:-9],
    }
    for content in wrong.values():
        with pytest.raises(ObjectPullError, match="no message"):
            getattr(http_grid, GRID_PULL)(list(whole), {**whole, message: content}.__getitem__)
    for part in parts:
        with pytest.raises(ObjectPullError, match="no message"):
            getattr(http_grid, GRID_PULL)(list(whole), {**whole, part: b"ConfigRecord x"}.__getitem__)


def test_the_app_looks_soon_for_what_its_node_still_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the moment when it says that it has all; what it makes of it is not looked at."""
    monkeypatch.setattr(run_clientapp, APP_PULL, inflatable_utils.pull_and_inflate_object_from_tree)
    apply("clientapp_pull_soon")
    confirmed: list[float] = []

    def confirm(object_id: str) -> None:
        confirmed.append(time.monotonic())
        raise LookupError(object_id)

    began = time.monotonic()
    with pytest.raises(LookupError):
        getattr(run_clientapp, APP_PULL)(ObjectTree(object_id="it"), OnItsWay(), confirm)
    assert confirmed[0] - began < 0.8


def test_a_flower_that_pulls_otherwise_is_not_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(object_ids: list[str]) -> dict[str, bytes]:
        return dict.fromkeys(object_ids, b"")

    monkeypatch.setattr(http_grid, GRID_PULL, other)
    monkeypatch.setattr(run_clientapp, APP_PULL, other)
    for name in ("grid_pull_checked", "clientapp_pull_soon"):
        with pytest.raises(FederationError, match="its form has changed"):
            apply(name)
    assert getattr(http_grid, GRID_PULL) is other and getattr(run_clientapp, APP_PULL) is other


def test_a_connection_to_the_database_keeps_few_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SQLite itself says it of a connection that Flower has opened. Red: Flower's 64 MB for each."""
    monkeypatch.setattr(sql_mixin, PRAGMAS, getattr(sql_mixin, PRAGMAS))
    apply("superlink_database_cache")
    store = SqlObjectStore(str(tmp_path / "link.db"))
    store.initialize()
    said = {name: list(store.query(f"PRAGMA {name}")[0].values()) for name in ("cache_size", "journal_mode")}
    assert said == {"cache_size": [-CACHE_KIB], "journal_mode": ["wal"]}


def test_a_flower_with_other_settings_of_its_database_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ((("journal_mode", "WAL"),), {"cache_size": "1"}):
        monkeypatch.setattr(sql_mixin, PRAGMAS, other)
        with pytest.raises(FederationError, match="its form has changed"):
            apply("superlink_database_cache")
        assert getattr(sql_mixin, PRAGMAS) is other


def test_a_reply_is_given_away_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red: Flower gives it away when it is announced, and the server app waits for a member that sends no objects.

    One whose sender stopped sending is given away, too: its objects are missing then, and that is its answer.
    """
    asked: list[set[str]] = []
    monkeypatch.setattr(SqlLinkState, GET, lambda self, message_ids, run_id: asked.append(message_ids) or [])
    wrapped = PATCHES["superlink_whole_replies"].make
    assert wrapped is not None
    found = PATCHES["superlink_whole_replies"]
    get = wrapped(*[getattr(SqlLinkState, GET), *[look_up(place) for place in found.places[1:]]])
    path = str(tmp_path / "link.db")
    store = SqlObjectStore(path)
    store.initialize()
    link = SqlLinkState(path, NoOpFederationManager(), store)
    link.initialize()
    tree, session = get_object_tree(RecordDict({"0": ConfigRecord({"frame": b"the reply"})})), link.start_session(5)
    with link.session() as rows:
        rows.execute(insert(MessageRes).values(message_id=tree.object_id, reply_to_message_id="asked"))
    link.preregister_object_tree(tree, session)

    def given() -> set[str]:
        get(link, {"asked", "other"}, 5)
        return asked.pop()

    assert given() == {"other"}
    names = iterate_object_tree(tree)
    contents = get_all_nested_objects(RecordDict({"0": ConfigRecord({"frame": b"the reply"})}))
    first, *others = [node.object_id for node in names]
    assert link.store_object(5, session, first, contents[first].deflate())
    assert given() == {"other"}
    with monkeypatch.context() as later:
        later.setattr(corestate_date, "now", lambda: datetime.now(UTC) + timedelta(seconds=400))
        again = wrapped(*[getattr(SqlLinkState, GET), *[look_up(place) for place in found.places[1:]]])
        again(link, {"asked", "other"}, 5)
        assert asked.pop() == {"asked", "other"}
    for name in others:
        assert link.store_object(5, session, name, contents[name].deflate())
    assert given() == {"asked", "other"}
    get(link, set(), 5)
    assert asked.pop() == set()


def test_a_reply_announced_again_is_still_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its line broke, and the server app has seen it meanwhile. Red: Flower, which asks for nothing of it, and waits."""
    for name in (ANNOUNCE, STORE):
        monkeypatch.setattr(SqlLinkState, name, getattr(SqlLinkState, name))
    apply("superlink_announce_again", "superlink_store_again")
    once = getattr(SqlLinkState, ANNOUNCE)
    apply("superlink_announce_again", "superlink_store_again")
    assert getattr(SqlLinkState, ANNOUNCE) is once
    path = str(tmp_path / "link.db")
    store = SqlObjectStore(path)
    store.initialize()
    link = SqlLinkState(path, NoOpFederationManager(), store)
    link.initialize()
    reply: Any = SimpleNamespace(metadata=SimpleNamespace(reply_to_message_id="a" * 64))
    holds = RecordDict({"0": ConfigRecord({"frame": b"the reply"})})
    tree, first = get_object_tree(holds), link.start_session(5)
    names = {node.object_id for node in iterate_object_tree(tree)}
    monkeypatch.setattr(link, "store_message_res", lambda message: "its id")
    assert set(link.store_message_and_object_tree(reply, tree, first)[1]) == names
    monkeypatch.setattr(link, "store_message_res", lambda message: None)  # what it answers is gone: it has been seen
    again = link.start_session(5)
    stored, missing = link.store_message_and_object_tree(reply, tree, again)
    assert stored and set(missing) == names
    for name, content in get_all_nested_objects(holds).items():
        assert not link.store_object(5, first, name, content.deflate())
        assert link.store_object(5, again, name, content.deflate())
        assert link.store_object(5, again, name, content.deflate())  # the answer was lost, and it is sent once more
    assert link.store_message_and_object_tree(reply, tree, link.start_session(5)) == (False, [])  # it is there whole
    other = get_object_tree(RecordDict({"0": ConfigRecord({"frame": b"another"})}))
    assert link.store_message_and_object_tree(reply, other, link.start_session(5)) == (False, [])
