"""When work stops, who has the turn, and how long a reply is waited for."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from cogen.errors import PolicyError
from cogen.node.ask import TrainerLate, ask
from cogen.node.channel import listen_at
from cogen.node.stopping import AskerGone, Turns, go_on, is_gone, stop_after, stop_when_gone
from cogen.protocol.messages import HelloRequest
from cogen.protocol.wire import receive
from tests.waiting import wait_until


def test_work_stops_when_the_other_side_has_closed() -> None:
    """Bytes that wait to be read are no end. Red: a check that reads."""
    mine, theirs = socket.socketpair()
    check = stop_when_gone(mine)
    theirs.send(b"more")
    check()
    assert not is_gone(mine)
    theirs.close()
    with pytest.raises(AskerGone):
        check()


def test_work_stops_when_its_time_is_over() -> None:
    check = stop_after(0.05, go_on)
    check()
    time.sleep(0.06)
    with pytest.raises(PolicyError, match=r"work of up to 0\.05 s"):
        check()
    stop_after(0.0, go_on)()  # no limit


def test_a_small_request_goes_before_large_ones_that_wait() -> None:
    turns, done, threads = Turns(), list[str](), list[threading.Thread]()

    def work(name: str, is_small: bool) -> None:
        with turns.taken(is_small=is_small):
            done.append(name)

    with turns.taken(is_small=False):
        for name, is_small in (("round 1", False), ("round 2", False), ("scoring", True)):
            before = len(turns._waiting)
            threads.append(threading.Thread(target=work, args=(name, is_small)))
            threads[-1].start()
            assert wait_until(lambda before=before: len(turns._waiting) > before, 10.0)
    for thread in threads:
        thread.join()
    assert done == ["scoring", "round 1", "round 2"]


def test_who_is_gone_leaves_the_queue_and_an_error_gives_the_turn_back() -> None:
    turns = Turns()

    def gone() -> None:
        raise AskerGone("work stopped", expected="x", got="y", fix="z")

    with turns.taken(is_small=False), pytest.raises(AskerGone), turns.taken(is_small=True, check=gone):
        raise AssertionError("two at a time")
    with pytest.raises(ValueError, match="in the work"), turns.taken(is_small=False):
        raise ValueError("in the work")
    with turns.taken(is_small=False):
        assert not turns._waiting


def test_a_reply_that_comes_too_late_is_not_waited_for(tmp_path: Path) -> None:
    """Once, and the connection is closed, by which the trainer knows. Red: the time counts as a death of the trainer."""
    listener, asked = listen_at(tmp_path / "sock"), list[bool]()

    def serve() -> None:
        connection, _ = listener.accept()
        receive(connection)
        asked.append(wait_until(lambda: is_gone(connection), 10.0))

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(TrainerLate, match=r"a reply within 0\.3 s"):
        ask(tmp_path / "sock", HelloRequest(run="r"), seconds=0.3)
    thread.join()
    assert asked == [True]
