"""A real federation with a fault in one place: a hanging process, a full disk, a wrong clock, a dishonest node."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from flwr.app import Context, RecordDict

from cogen.config import load_config
from cogen.node.channel import connect_to, listen_at
from cogen.node.receipt import read_receipts
from cogen.protocol.wire import Frame, receive, send
from cogen.runs import RunFolder, read_lines
from server.server_app import app as server_app
from tests.conftest import SEEDS
from tests.e2e.test_rounds import events, parents
from tests.federation_processes import DOMAINS, FederationProcesses, config_for, running_federation, weights
from tests.in_process_grid import InProcessGrid
from tests.reference_run import failing, models, reference_run
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 900.0


@dataclass(frozen=True)
class Stage:
    """A federation that the tests of this file share, with small disks of their own for some folders, where they are allowed."""

    federation: FederationProcesses
    disks: dict[str, Path | None]

    def disk(self, name: str) -> Path:
        """Skips where there is none."""
        if (found := self.disks[name]) is None:
            pytest.skip("no tmpfs can be mounted here (needs root)")
        return found


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Stage]:
    place = tmp_path_factory.mktemp("federation")
    with (
        small_disk(place / "grid", 64) as grid,
        small_disk(place / "coordinator" / "federation", 256) as federation,
        running_federation(place, config_for(tiny_folder, with_data=False), tiny_folder) as made,
    ):
        yield Stage(made, {"grid": grid, "coordinator": federation})


def of_domain(made: FederationProcesses, kind: str, domain: str) -> psutil.Process:
    """The one process of a kind that works for a domain."""
    (found,) = [p for p in made.processes(kind) if str(made.home(domain)) in " ".join(p.cmdline())]
    return found


# A process that hangs


def hanging_config(tiny_folder: Path, deadline: int, *, with_data: bool) -> str:
    late = {"stragglers": "next", "num_rounds": 3, "min_valid_clients": 2, "round_deadline_seconds": deadline}
    config = config_for(tiny_folder, with_data=with_data, **late)
    return config.replace("tokens_per_round = 512", "tokens_per_round = 6400")


def rounds_while_hanging(stage: Stage, name: str, kind: str, tiny_folder: Path, deadline: int) -> RunFolder:
    """Three rounds, in the first of which a process of grid's stands still from its work on until the second begins."""
    made = stage.federation
    made.configure(name, hanging_config(tiny_folder, deadline, with_data=False))
    works = made.home("grid") / "work.jsonl"
    before = len(read_lines(works))
    running, run = made.start(made.coordinator, "run", made.config), made.run
    assert wait_until(lambda: len(read_lines(works)) > before, PATIENCE_SECONDS), made.log()
    process = of_domain(made, kind, "grid")
    process.suspend()
    try:
        assert wait_until(lambda: (run.round(1) / "round.json").is_file(), PATIENCE_SECONDS), made.log()
        assert wait_until(lambda: len(events(run, "round_started")) == 2, PATIENCE_SECONDS)
    finally:
        process.resume()
    assert running.wait(PATIENCE_SECONDS) == 0, made.log()
    return run


def test_a_trainer_that_hangs_is_waited_for_until_the_deadline_and_its_reply_enters_the_next_round(
    stage: Stage, tiny_folder: Path, tmp_path: Path
) -> None:
    """Red: a round without a deadline, or a reply that is dropped, or a node that stays out."""
    deadline = 120  # on a busy machine the others need some of it
    run = rounds_while_hanging(stage, "hangs", "trainer", tiny_folder, deadline)
    assert parents(run, 1).keys() == {"clinical", "materials"}
    dropped, *others = events(run, "client_dropped")
    assert not others and (dropped["round"], dropped["domain"]) == (1, "grid"), read_lines(run.events_path)
    assert f"expected a reply within {deadline} s, got none" in dropped["reason"]
    assert deadline <= events(run, "round_finished")[0]["seconds"] < deadline + 30
    assert [parents(run, n).keys() for n in (2, 3)] == [set(DOMAINS)] * 2
    late_by = {e["round"]: e.get("rounds_late", 0) for e in events(run, "client_replied") if e["domain"] == "grid"}
    assert late_by == {2: 1, 3: 0}
    works = read_lines(stage.federation.home("grid") / "work.jsonl")
    config = hanging_config(tiny_folder, deadline, with_data=True)
    assert models(reference_run(tmp_path, config, run, works)) == models(run)


def test_a_supernode_that_hangs_is_gone_after_a_minute_and_takes_part_again_when_it_goes_on(
    stage: Stage, tiny_folder: Path, tmp_path: Path
) -> None:
    """Flower answers for a node of which it hears nothing. Red: the round waits for its deadline, or the node stays out."""
    deadline = 600
    run = rounds_while_hanging(stage, "freezes", "supernode", tiny_folder, deadline)
    assert parents(run, 1).keys() == {"clinical", "materials"}
    first, *others = events(run, "client_dropped")
    assert (first["round"], first["domain"]) == (1, "grid") and "no sign of life" in first["reason"], first
    assert {(e["round"], e["domain"]) for e in others} <= {(2, "grid")}
    assert events(run, "round_finished")[0]["seconds"] < deadline
    assert parents(run, 3).keys() == set(DOMAINS)
    works = read_lines(stage.federation.home("grid") / "work.jsonl")
    config = hanging_config(tiny_folder, deadline, with_data=True)
    assert models(reference_run(tmp_path, config, run, works)) == models(run)


# A node that lies

Lie = Callable[[Frame], Frame]


def changed(**values: Any) -> Lie:
    return lambda answer: Frame({**answer.header, **values}, answer.arrays)


def each(change: Callable[[np.ndarray], np.ndarray]) -> Lie:
    return lambda answer: Frame(answer.header, {k: change(v) for k, v in answer.arrays.items()})


LIES: dict[int, tuple[Lie, str]] = {
    1: (each(lambda v: np.full_like(v, np.nan)), "NaN or infinity"),
    2: (each(lambda v: v[:1]), "got (1, "),
    3: (
        changed(fingerprint=dict.fromkeys(("weights", "tokenizer", "modules"), "0" * 64)),
        "the fingerprint of the run's base",
    ),
    4: (each(lambda v: v * np.float32(1e4)), "a client update of norm up to"),
    5: (changed(figures={"num_tokens": 10**9}), "num_tokens up to 512"),
}


@contextmanager
def lying(socket_path: Path) -> Iterator[None]:
    """Stand between a domain's ClientApp and its trainer, and change each answer of a round as LIES says."""
    real = socket_path.with_name("real.sock")
    socket_path.rename(real)
    listener = listen_at(socket_path)

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, connect_to(real) as below, suppress(EOFError):
                    while True:
                        request = receive(connection)
                        send(below, request)
                        answer = receive(below)
                        if request.header["kind"] == "train":
                            answer = LIES[int(request.header["round"])][0](answer)
                        send(connection, answer)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield
    finally:
        listener.close()
        real.rename(socket_path)


def test_a_node_that_lies_is_dropped_each_time_and_moves_nothing(
    tmp_path: Path, stage: Stage, tiny_folder: Path
) -> None:
    """The adapter is that of rounds in which it gave no reply at all. Red: any check missing."""
    rules = {"num_rounds": len(LIES), "min_valid_clients": 2, "max_failures": 9, "round_deadline_seconds": 600}
    quiet = RunFolder(tmp_path / "quiet")
    (tmp_path / "quiet.toml").write_text(config_for(tiny_folder, with_data=True, **rules))
    quiet.create(load_config(tmp_path / "quiet.toml").to_toml())
    server_app(InProcessGrid(3, {1: failing}), Context(1, 0, {}, RecordDict(), {"run": str(quiet.path), "config": ""}))
    config = config_for(tiny_folder, with_data=False, **rules)
    made = stage.federation
    made.configure("lies", config)
    assert wait_until(made.home("grid").joinpath("trainer.sock").exists, 60.0)
    with lying(made.home("grid") / "trainer.sock"):
        assert made.rounds(patience_seconds=PATIENCE_SECONDS) == 0, made.log()
    dropped = {e["round"]: e for e in events(made.run, "client_dropped")}
    assert dropped.keys() == LIES.keys()
    for number, (_, reason) in LIES.items():
        assert dropped[number]["domain"] == "grid"
        assert reason in dropped[number]["reason"] and "domain 'grid'" in dropped[number]["reason"]
    assert models(made.run) == models(quiet)


# A full disk


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path | None]:
    """A file system of its own at `place`; None where it cannot be mounted."""
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


@contextmanager
def filled(disk: Path, leave_bytes: int) -> Iterator[None]:
    """No more than `leave_bytes` are free in the block."""
    filler = disk / "filler"
    try:
        with open(filler, "wb") as file, suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - leave_bytes)
        yield
    finally:
        filler.unlink(missing_ok=True)


def assert_whole(folder: Path) -> None:
    """Nothing half-written: no file aside, and every round that is there has all its files."""
    assert not [p for p in folder.rglob(".*") if p.name.startswith((".round", ".0", ".adapter", ".reply", ".state"))]
    for done in folder.glob("rounds/[0-9]*"):
        assert (done / "global" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("leave_bytes", [0, 100_000])
def test_a_full_disk_at_a_domain_costs_a_round_and_no_more(
    leave_bytes: int, stage: Stage, tiny_folder: Path, simulated: RunFolder
) -> None:
    """Red: a state that is half-written and read again, or a reply without its receipt."""
    waits = {"round_deadline_seconds": 600, "connect_wait_seconds": 20, "min_connected_wait_seconds": 20}
    config = config_for(tiny_folder, with_data=False, **waits)
    made, disk = stage.federation, stage.disk("grid")
    made.configure(f"full-grid-{leave_bytes}", config)
    with filled(disk, leave_bytes):
        assert made.rounds(patience_seconds=PATIENCE_SECONDS) == 2
    error = made.log().strip().splitlines()[-1]
    assert error.startswith("error: the run failed: expected every round to end, got ") and "--resume" in error
    reasons = [e["reason"] for e in events(made.run, "client_dropped") if e["domain"] == "grid"]
    reasons += [e["missing"].get("grid", "") for e in events(made.run, "client_registry")]
    assert any("RunError" in r or "OSError" in r or "could not write a receipt" in r for r in reasons), reasons
    assert str(disk) not in "".join(reasons)
    receipts = [r for r in read_receipts(made.home("grid") / "receipts.jsonl") if r["run"] == made.run.read_id()]
    sent = {r["round"] for r in receipts if r["kind"] == "train" and not r.get("error")}
    assert set(range(1, made.run.last_complete_round() + 1)) <= sent <= ({1, 2} if leave_bytes else set())
    assert_whole(made.run.path)
    assert made.rounds("--resume", patience_seconds=PATIENCE_SECONDS) == 0, made.log()
    assert weights(made.run) == weights(simulated)
    assert_whole(made.home("grid"))


@pytest.mark.parametrize("leave_bytes", [0, 150_000])  # for not one round, and for one of two
def test_a_full_disk_at_the_coordinator_stops_the_run_and_it_goes_on_with_space(
    leave_bytes: int, stage: Stage, tiny_folder: Path, simulated: RunFolder
) -> None:
    """Red: a round's folder without all its files, a run that hangs, or one that cannot be resumed."""
    config = config_for(tiny_folder, with_data=False, round_deadline_seconds=600)
    made, disk = stage.federation, stage.disk("coordinator")
    made.configure(f"full-coordinator-{leave_bytes}", config)
    running = made.start(made.coordinator, "run", made.config)
    assert wait_until(lambda: len(events(made.run, "round_started")) == 1, PATIENCE_SECONDS), made.log()
    with filled(disk, leave_bytes):
        assert running.wait(PATIENCE_SECONDS) == 2, made.log()
    error = made.log().strip().splitlines()[-1]
    assert error.startswith("error: ") and "expected " in error, made.log()
    assert_whole(made.run.path)
    assert made.rounds("--resume", patience_seconds=PATIENCE_SECONDS) == 0, made.log()
    assert weights(made.run) == weights(simulated)


# A clock that is off

OFF = {3600.0: "ahead of it", -3500.0: "behind it"}
SHIFTED = """
import datetime, time
class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=OFF)
datetime.datetime = Shifted
true = time.time
time.time = lambda: true() + OFF
"""


@contextmanager
def clock_off(place: Path, seconds: float) -> Iterator[None]:
    """Python programs that are started in the block see another time."""
    place.mkdir()
    (place / "sitecustomize.py").write_text(f"OFF = {seconds}\n{SHIFTED}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{place}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        yield


def test_a_clock_an_hour_off_is_said_and_the_others_go_on(tmp_path: Path, stage: Stage, tiny_folder: Path) -> None:
    """Before joining by doctor and join, afterwards by the running join. Red: the node ends again and again in silence."""
    config = config_for(tiny_folder, with_data=False, min_valid_clients=2, connect_wait_seconds=10)
    made, without = stage.federation, {}
    folder, invite = made.place / "grid", "again.invite"
    for number, (seconds, side) in enumerate(OFF.items()):
        made.configure(f"clock-{number}", config)
        end(made.members["grid"])
        with clock_off(tmp_path / f"clock-{number}", seconds):
            made.members["grid"] = made.start(folder, "join", "--folder", made.home("grid"))
            assert wait_until(lambda: side in made.log("grid", "join"), PATIENCE_SECONDS), made.log("grid", "join")  # noqa: B023
        assert "Set this machine's clock (NTP)." in made.log("grid", "join")
        assert made.rounds(patience_seconds=PATIENCE_SECONDS) == 0, made.log()
        assert parents(made.run, 2).keys() == {"clinical", "materials"}
        if not number:
            theirs = config_for(tiny_folder, with_data=True, min_valid_clients=2)
            without = models(reference_run(tmp_path, theirs, made.run, read_lines(made.home("grid") / "work.jsonl")))
        assert models(made.run) == without
    end(made.members["grid"])
    made.output("revoke", "grid")
    made.output("invite", "grid", "--out", folder / invite)
    joining = ("join", invite, "--data", SEEDS / "grid.jsonl", "--folder", folder / "new")
    for number, (seconds, side) in enumerate(OFF.items()):
        for command in (("doctor", invite), joining):
            with clock_off(tmp_path / f"{command[0]}-{number}", seconds):
                assert made.start(folder, *command, "--base", tiny_folder).wait(PATIENCE_SECONDS) == 2
            said = made.log("grid", command[0]).splitlines()
            assert any(side in line for line in said if line.startswith(("problem", "error:")))
    assert not (folder / "new" / "key").exists()


def end(member: subprocess.Popen[bytes]) -> None:
    member.send_signal(signal.SIGTERM)
    member.wait(PATIENCE_SECONDS)
