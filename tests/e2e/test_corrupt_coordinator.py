"""A real federation whose coordinator answers with errors and garbage for minutes, or whose SuperExec is killed."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cogen.runs import RunFolder
from tests.e2e.test_rounds import events
from tests.federation_processes import FederationProcesses, config_for, running_federation, weights
from tests.ports import free_port
from tests.recording_proxy import RecordingProxy, running_recorder
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs 127.0.0.2, which only Linux has"),
]
PATIENCE_SECONDS = 900.0
ERROR = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/protobuf\r\nconnection: close\r\n"
FAULTS = [
    ERROR,
    OK + b"content-length: 0\r\n\r\n",
    OK + b"content-length: 9\r\n\r\n\x0a\xff\xff\x03garbage"[:40],
    OK + b"content-length: 100\r\n\r\n\x08",
    OK.replace(b"application/protobuf", b"text/html") + b"content-length: 13\r\n\r\n<html></html>",
    OK + b"content-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc",
    b"HTTP/1.1 302 Found\r\nlocation: https://localhost:1/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    b"\x15\x03\x03\x00\x02",
    b"",
]


@dataclass(frozen=True)
class Stage:
    federation: FederationProcesses
    between: RecordingProxy


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Stage]:
    place = tmp_path_factory.mktemp("corrupt")
    between = RecordingProxy(free_port(), place / "coordinator" / "federation")
    config = config_for(tiny_folder, with_data=False)
    with running_recorder(between), running_federation(place, config, tiny_folder, between) as made:
        yield Stage(made, between)


def nodes(made: FederationProcesses) -> set[int]:
    return {process.pid for process in made.processes("supernode")}


@pytest.mark.parametrize(("name", "seconds"), [("error", 70.0), ("garbage", 120.0)])
def test_a_corrupt_coordinator_ends_no_node(
    name: str, seconds: float, stage: Stage, tiny_folder: Path, simulated: RunFolder
) -> None:
    """HTTP 500 for more than a minute, and every other kind of wrong answer, in the middle of a run.

    Red: the thread of heartbeats ends at the first 500, and a node says that it is connected and asks for nothing; or
    a reply is dropped.
    """
    made = stage.federation
    config = config_for(tiny_folder, with_data=False, round_deadline_seconds=600, connect_wait_seconds=300)
    made.configure(f"corrupt-{name}", config)
    drawn, before = random.Random(3), nodes(made)
    fault: Callable[[], bytes] = {"error": lambda: ERROR, "garbage": lambda: drawn.choice(FAULTS)}[name]
    running = made.start(made.coordinator, "run", made.config)
    assert wait_until(lambda: bool(events(made.run, "round_started")), PATIENCE_SECONDS), made.log()
    with stage.between.faulty(fault):
        time.sleep(seconds)
        assert stage.between.num_faults > 5
        assert nodes(made) == before
    assert running.wait(PATIENCE_SECONDS) == 0, (made.log(), [made.log(d, "join") for d in made.members])
    assert nodes(made) == before
    assert weights(made.run) == weights(simulated)
    assert not events(made.run, "client_dropped")
    assert "waiting for " in made.log()


def kill_superexec(made: FederationProcesses, where: str) -> None:
    """SIGKILL of SuperExec at the coordinator, at the domains, or everywhere."""
    homes = [str(made.home(d)) for d in made.members]
    for process in made.processes("superexec"):
        is_domains = any(home in " ".join(process.cmdline()) for home in homes)
        if where in ("everywhere", "domain" if is_domains else "coordinator"):
            process.kill()


@pytest.mark.parametrize("where", ["coordinator", "domain", "everywhere"])
def test_a_killed_superexec_is_started_again(where: str, stage: Stage, tiny_folder: Path, simulated: RunFolder) -> None:
    """Before a run, when nobody would notice. Red: the run waits without a word, and no domain takes up work."""
    made = stage.federation
    made.configure(f"killed-{where}", config_for(tiny_folder, with_data=False))
    kill_superexec(made, where)
    assert made.rounds(patience_seconds=PATIENCE_SECONDS) == 0, made.log()
    assert weights(made.run) == weights(simulated)
    shown = made.log(command="serve") + "".join(made.log(d, "join") for d in made.members)
    assert "Flower's SuperExec started again" in shown


@pytest.mark.parametrize("where", ["coordinator", "domain"])
def test_a_superexec_killed_in_a_round_costs_no_reply(
    where: str, stage: Stage, tiny_folder: Path, simulated: RunFolder
) -> None:
    """While the domains train. At the coordinator the server app ends with it, and `--resume` goes on with the same bits.

    Red: a round that waits in vain.
    """
    made = stage.federation
    made.configure(f"killed-in-a-round-{where}", config_for(tiny_folder, with_data=False, round_deadline_seconds=600))
    running = made.start(made.coordinator, "run", made.config)
    assert wait_until(lambda: bool(events(made.run, "round_started")), PATIENCE_SECONDS), made.log()
    kill_superexec(made, where)
    code, tries = running.wait(PATIENCE_SECONDS), 0
    while code and where == "coordinator" and tries < 3:  # the server app ends with it
        code, tries = made.rounds("--resume", patience_seconds=PATIENCE_SECONDS), tries + 1
    assert code == 0, made.log()
    assert weights(made.run) == weights(simulated)
    assert not events(made.run, "client_dropped")
