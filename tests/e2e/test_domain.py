"""A domain of a real federation: the real ClientApp, the real trainer process, and the data that leaves them.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message
from flwr.app.message import make_message

from clients import client_app
from cogen.cli.join import JoinNarrator
from cogen.node.channel import connect_to
from cogen.node.home import NodeHome
from cogen.node.receipt import read_receipts
from cogen.node.view import HomeWatcher
from cogen.protocol.factors import to_arrays
from cogen.protocol.messages import EvaluateRequest, HelloRequest, SuspendRequest, pack
from cogen.protocol.wire import Frame, receive, send, to_records
from cogen.runs import read_lines
from tests.conftest import SEEDS
from tests.in_process_grid import InProcessGrid
from tests.member import RUN, TINY_ROUNDS, ask, grid_of, make_home, request, service, some_factors, start_service
from tests.message_content import NONCE, content_of, frame_of, header_of
from tests.receipts import assert_is_receipt
from tests.waiting import wait_until

CORPUS_NAME = "ward-seven-notes"


def home_at(place: Path, base: Path) -> NodeHome:
    data = place / "private" / f"{CORPUS_NAME}.jsonl"
    data.parent.mkdir()
    data.write_bytes((SEEDS / "grid.jsonl").read_bytes())
    return make_home(place / "home", base, data)


@pytest.fixture
def home(tmp_path: Path, tiny_folder: Path) -> NodeHome:
    return home_at(tmp_path, tiny_folder)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[tuple[NodeHome, InProcessGrid]]:
    """A node with a running trainer for tests that leave both as they were."""
    home = home_at(tmp_path_factory.mktemp("lasting"), tiny_folder)
    with service(home):
        yield home, grid_of(home)


@pytest.fixture
def grid(home: NodeHome) -> Iterator[InProcessGrid]:
    """A node with a running trainer."""
    with service(home):
        yield grid_of(home)


def train(grid: InProcessGrid, config_file: Path, number: int = 1, *overrides: str, run: str = RUN) -> Message:
    return ask(grid, request(config_file, number, overrides, run).with_arrays(to_arrays(some_factors(config_file))))


def score(grid: InProcessGrid, config_file: Path) -> Message:
    settings = request(config_file).settings
    scoring = EvaluateRequest(run=RUN, round=1, settings=settings, models=("combined",))
    return ask(grid, scoring.with_arrays(to_arrays(some_factors(config_file), "combined/")))


def factors_of(reply: Message) -> dict[str, np.ndarray]:
    return dict(frame_of(reply).arrays)


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(v, other[k]) for k, v in one.items())


def receipts(home: NodeHome) -> list[dict[str, object]]:
    return read_receipts(home.receipts)


def all_text(reply: Message) -> str:
    """Every text and number of a reply, error and all."""
    if reply.has_error():
        return str(reply.error.reason)
    return json.dumps([list(reply.content), frame_of(reply).header, list(frame_of(reply).arrays)])


def assert_nothing_private(text: str, home: NodeHome) -> None:
    words = {w for line in (SEEDS / "grid.jsonl").read_text().splitlines() for w in json.loads(line)["text"].split()}
    private = {CORPUS_NAME, str(home.path), "/private", socket.gethostname(), getpass.getuser(), ".jsonl"}
    private |= {w for w in words if len(w) > 8 and w.isalpha()}
    found = {w for w in private if w in text}
    assert not found


def test_what_is_handed_to_flower_is_what_the_receipts_say(
    home: NodeHome, grid: InProcessGrid, config_file: Path
) -> None:
    """Red: a record, an array or a value that the receipt omits; a hash of other bytes."""
    said = ask(grid, HelloRequest(run=RUN))
    trained = train(grid, config_file)
    scored = score(grid, config_file)
    lines = receipts(home)
    assert [(r["kind"], r["run"], r["round"]) for r in lines] == [
        ("query", RUN, 0),
        ("train", RUN, 1),
        ("evaluate", RUN, 1),
    ]
    for line, reply in zip(lines, (said, trained, scored), strict=True):
        assert_is_receipt(line, reply, frame_of(reply))
        assert {k: dict(r) for k, r in reply.content.items()} == to_records(
            frame_of(reply), NONCE
        )  # not a byte besides
        assert_nothing_private(all_text(reply), home)
    assert len(lines[1]["arrays"]) == 28  # type: ignore[arg-type]
    told = {"max_rank", "max_tokens_per_round", "evaluates", "shares_expert", "max_shared_experts", "shares_gate"}
    assert set(header_of(said)) == {"kind", "domain", "version", *told}
    assert_nothing_private(home.receipts.read_text(), home)


def says(grid: InProcessGrid, kind: str, frame: Frame | None) -> Message:
    """The reply to a frame in a message of this type; without a frame the message is an error."""
    message = Message(content_of(frame or Frame({})), dst_node_id=100, message_type="train", group_id=NONCE.hex())
    message.metadata.__dict__["_message_type"] = kind
    if frame is None:
        message = make_message(metadata=message.metadata, error=Error(code=0, reason="x"))
    (reply,) = grid.pull_messages(grid.push_messages([message]))
    return reply


@pytest.mark.parametrize("kind", ["query.hello", "train", "train.other", "query", "system", None])
def test_what_is_asked_in_a_message_of_another_type_is_refused_and_has_its_receipt(
    lasting: tuple[NodeHome, InProcessGrid], config_file: Path, kind: str | None
) -> None:
    """Red: scores whose receipt says `query`; an error of Flower's own, which has no receipt."""
    home, grid = lasting
    before = len(receipts(home))
    scoring = EvaluateRequest(run=RUN, round=1, settings=request(config_file).settings, models=())
    reply = says(grid, kind, pack(scoring)) if kind else says(grid, "evaluate", None)
    assert reply.has_error()
    (line,) = receipts(home)[before:]
    assert line["error"] == reply.error.reason
    assert "a message of the type evaluate" in reply.error.reason or kind is None
    assert_nothing_private(reply.error.reason, home)


WIDE = 64  # above every rank of the tiny base's layers


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: np.repeat(a, WIDE // min(a.shape), 1 if a.shape[1] == 4 else 0), "a layer's own rank"),
        (lambda a: a.astype(np.float64), "float32"),
        (lambda a: a.astype(np.int8), "float32"),
        (lambda a: a[:1] if a.shape[1] == 32 and a.shape[0] == 4 else a, "rank"),
        (lambda a: np.full_like(a, np.inf), "finite"),
    ],
)
def test_a_start_that_would_fill_the_memory_is_refused(
    lasting: tuple[NodeHome, InProcessGrid], config_file: Path, change: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    """The norm of an adapter of rank 200,000, which fits a message, takes 300 GB. Red: `require_small` without it."""
    _, grid = lasting
    start = {name: change(array) for name, array in to_arrays(some_factors(config_file)).items()}
    reply = ask(grid, request(config_file, run="wide").with_arrays(start))
    assert reply.has_error() and reason in reply.error.reason, reply.error.reason


def test_a_suspended_domain_is_told(
    lasting: tuple[NodeHome, InProcessGrid], capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for `cogen join`, made here of numbers alone. Red: none; the coordinator's own words in it."""
    kept, grid = lasting
    watcher, narrator = HomeWatcher(kept), JoinNarrator(kept.read_member())
    suspended = SuspendRequest(run=RUN, round=4, num_failures=3)
    assert header_of(ask(grid, suspended)) == {"kind": "suspend_reply", "domain": "grid"}
    for wrong in ({"round": "to be shown"}, {"reason": "to be shown"}):
        content = content_of(Frame({**pack(suspended).header, **wrong}))
        message = Message(content, dst_node_id=100, message_type="query.suspend", group_id=NONCE.hex())
        (bad,) = grid.pull_messages(grid.push_messages([message]))
        assert bad.has_error() and "to be shown" not in bad.error.reason
    for event in watcher.new():
        narrator.on_event(event)
    shown = capsys.readouterr().err
    assert "round 4 · suspended after 3 rounds in a row without a valid reply" in shown
    assert "to be shown" not in shown


def test_a_failure_leaves_as_one_line_without_the_machine(
    home: NodeHome, grid: InProcessGrid, config_file: Path
) -> None:
    """The corpus is gone: its path is in the trainer's log, and not in the reply."""
    data = Path(home.read_member().data)
    data.unlink()
    reply = train(grid, config_file)
    assert reply.error.reason == "training failed at the domain (DataError); its own log says why"
    assert receipts(home)[0]["error"] == reply.error.reason
    assert CORPUS_NAME in (home.logs / "trainer.log").read_text()


@pytest.mark.parametrize(
    ("policy", "overrides", "reason"),
    [
        ("train = false", (), "expected no train"),
        ("max_rank = 3", (), "a rank up to 3, got 4"),
        ("max_tokens_per_round = 511", (), "tokens a round up to 511, got 512"),
        ("max_bytes_up_per_day = 1000", (), "up to 1000 bytes a day"),
        ('bases = ["another"]', (), "one of the bases another, got tiny"),
        ("nonsense", (), "training failed at the domain (ConfigError)"),
    ],
)
def test_the_policy_is_the_domains(
    lasting: tuple[NodeHome, InProcessGrid],
    config_file: Path,
    policy: str,
    overrides: tuple[str, ...],
    reason: str,
) -> None:
    home, grid = lasting
    before, run = len(receipts(home)), hashlib.sha256(reason.encode()).hexdigest()[:32]
    home.policy.write_text(TINY_ROUNDS + policy)
    reply = train(grid, config_file, 1, *overrides, run=run)
    assert reason in reply.error.reason
    (line,) = receipts(home)[before:]
    assert (line["error"], line["arrays"]) == (reply.error.reason, [])
    assert_nothing_private(reply.error.reason, home)
    assert home.read_member().base not in reply.error.reason
    home.policy.write_text(TINY_ROUNDS + "max_rank = 4\nmax_tokens_per_round = 512\nmax_bytes_up_per_day = 1_000_000\n")
    assert not train(grid, config_file, run=run).has_error()  # read anew, and at the limit it is allowed


def test_limits_are_told_and_scores_stay_when_they_may_not_leave(
    home: NodeHome, grid: InProcessGrid, config_file: Path
) -> None:
    whole = train(grid, config_file)
    assert "bits_per_byte_after" in header_of(whole)["figures"]
    home.policy.write_text(TINY_ROUNDS + "max_rank = 6\nmax_tokens_per_round = 700\nevaluation_leaves = false\n")
    about = header_of(ask(grid, HelloRequest(run=RUN)))
    assert (about["max_rank"], about["max_tokens_per_round"], about["evaluates"]) == (6, 700, False)
    stripped = train(grid, config_file)
    assert set(header_of(stripped)["figures"]) == {"num_tokens", "seconds"}
    assert equal(factors_of(whole), factors_of(stripped))
    scored = score(grid, config_file)
    assert "numbers of evaluation" in scored.error.reason


def test_another_split_is_refused_in_words_and_said_to_the_administrator(
    home: NodeHome, grid: InProcessGrid, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an attacker of the protocol asks, in fields that a request does not have. Red: only the type of an error."""
    frame = pack(request(config_file))
    header = {**frame.header, "settings": {**frame.header["settings"], "heldout": {"heldout_frac": 0.5}}}
    message = Message(content_of(Frame(header)), dst_node_id=100, message_type="train")
    watcher, narrator = HomeWatcher(home), JoinNarrator(home.read_member())
    (reply,) = grid.pull_messages(grid.push_messages([message]))
    assert "another held-out part or other windows, which is this domain's own choice" in reply.error.reason
    for event in watcher.new():
        narrator.on_event(event)
    first, second = capsys.readouterr().err.splitlines()
    assert "beyond the ordinary: the coordinator asks for another held-out part" in first
    assert "refused" in second


def test_work_stops_at_the_next_step_when_nobody_waits_for_it(
    home: NodeHome, grid: InProcessGrid, config_file: Path
) -> None:
    """A round of hours whose asker has gone leaves the trainer to the next one. Red: work that goes on unasked."""
    long = request(config_file, 1, ("train.tokens_per_round=10000000",))
    ask(grid, HelloRequest(run=RUN))
    with connect_to(home.socket) as connection:
        send(connection, pack(long.with_arrays(to_arrays(some_factors(config_file)))))
        log = home.run(RUN) / "train.jsonl"
        assert wait_until(lambda: len(read_lines(log)) > 2, 120.0)
    assert not train(grid, config_file, run="another").has_error()
    assert "AskerGone" in (home.logs / "trainer.log").read_text()
    assert list(home.run(RUN).glob("part-*.safetensors"))  # asked again, it goes on from there


def test_a_request_has_so_many_seconds_as_the_policy_says(
    home: NodeHome, grid: InProcessGrid, config_file: Path
) -> None:
    home.policy.write_text(TINY_ROUNDS + "max_seconds = 1.0\n")
    reply = train(grid, config_file, 1, "train.tokens_per_round=10000000")
    assert "work of up to 1 s, got a request that takes longer" in reply.error.reason
    home.policy.write_text(TINY_ROUNDS)
    assert not train(grid, config_file).has_error()


def test_a_run_names_no_other_place(home: NodeHome, grid: InProcessGrid, config_file: Path) -> None:
    for run in ("../elsewhere", "/tmp/x", "", "a" * 65):
        assert "request refused" in train(grid, config_file, run=run).error.reason
    assert not (home.path / "runs").exists()


def test_asked_again_the_same_reply_comes_without_training_even_after_a_restart(
    home: NodeHome, config_file: Path
) -> None:
    """Red: no kept replies, and the second figure of seconds differs; a key without the arrays, and the third is given."""
    grid, log = grid_of(home), home.run(RUN) / "train.jsonl"
    with service(home):
        first = train(grid, config_file)
    steps = len(read_lines(log))
    assert steps == 4
    with service(home):
        again = train(grid, config_file)
        assert len(read_lines(log)) == steps
        arrays = to_arrays(some_factors(config_file, seed=1))
        other = ask(grid, request(config_file).with_arrays(arrays))
        assert "the start from which this round was trained before" in other.error.reason
    assert equal(factors_of(first), factors_of(again))
    assert header_of(first) == header_of(again)


def kill_at(home: NodeHome, process: subprocess.Popen[bytes], ready: Path, killed: list[float]) -> None:
    """SIGKILL the trainer once a state of the round in work is on the disk, then start another."""
    until = time.monotonic() + 120
    while not list(ready.glob("part-*.safetensors")) and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed.append(len(read_lines(ready / "train.jsonl")))
    killed.append(start_service(home).pid)


def test_a_trainer_killed_in_a_round_goes_on_from_its_last_state_bit_for_bit(
    home: NodeHome, config_file: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    """The ClientApp notices nothing. Red: the part is not read, and the steps done before the kill are done again."""
    long = ("train.tokens_per_round=6400", "train.checkpoint_seconds=0.01")
    other = make_home(tmp_path / "other", tiny_folder, Path(home.read_member().data))
    with service(other):
        whole = train(grid_of(other), config_file, 1, *long)
    killed: list[int] = []
    process = start_service(home)
    thread = threading.Thread(target=kill_at, args=(home, process, home.run(RUN), killed))
    thread.start()
    try:
        reply = train(grid_of(home), config_file, 1, *long)
    finally:
        thread.join()
        os.kill(killed[1], signal.SIGKILL)
    steps = [line["step"] for line in read_lines(home.run(RUN) / "train.jsonl")]
    assert 0 < killed[0] < 50
    assert steps[: killed[0]] == list(range(1, killed[0] + 1))
    assert steps[killed[0]] > 1, "began anew"
    assert steps[-1] == 50
    assert equal(factors_of(reply), factors_of(whole))
    assert not list(home.run(RUN).glob("part-*"))


def test_the_socket_is_this_users_and_knows_four_actions(home: NodeHome) -> None:
    with service(home) as process:
        ask(grid_of(home), HelloRequest(run=RUN))
        assert home.socket.stat().st_mode & 0o777 == 0o600
        assert home.path.stat().st_mode & 0o777 == 0o700
        with connect_to(home.socket) as connection:
            send(connection, Frame({"kind": "read", "run": RUN, "data": "/etc/passwd"}))
            assert "another kind" in receive(connection).header["error"]
            send(connection, Frame({"kind": "stop"}))
            assert receive(connection).header == {}
        assert process.wait(timeout=20) == 0


def test_a_path_longer_than_a_sockets_address_does(tmp_path: Path, tiny_folder: Path) -> None:
    home = make_home(tmp_path / ("long" * 30), tiny_folder, SEEDS / "grid.jsonl")
    with service(home):
        assert not ask(grid_of(home), HelloRequest(run=RUN)).has_error()


def test_without_a_receipt_nothing_leaves(
    home: NodeHome, grid: InProcessGrid, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receipts cannot be written: a folder is in their place."""
    home.receipts.mkdir()
    reply = train(grid, config_file)
    assert reply.error.reason == "the domain could not write a receipt, and so sends nothing"
    assert reply.error.code == client_app.FAILED
