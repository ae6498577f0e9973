"""A real federation by its five commands: it ends with the model of a simulation, whichever process is killed."""

from __future__ import annotations

import getpass
import json
import random
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from cogen.node.receipt import read_receipts
from cogen.node.score_book import rounded
from cogen.runs import RunFolder
from tests.conftest import SEEDS
from tests.federation_processes import (
    COMMAND_WORDS,
    DOMAINS,
    WITHOUT_RAY,
    FederationProcesses,
    config_for,
    running_federation,
    weights,
)


@pytest.mark.slow
def test_five_commands_give_the_simulations_model(tmp_path: Path, tiny_folder: Path, simulated: RunFolder) -> None:
    """And nothing of a domain is in what the coordinator has, but factors and numbers. No program finds Ray.

    Red, of what the next test kills: a name in COMMAND_WORDS that no process has.
    """
    with running_federation(tmp_path, config_for(tiny_folder, with_data=False), tiny_folder) as made:
        running, missing = made.start(made.coordinator, "run", made.config), set(COMMAND_WORDS)
        while running.poll() is None:
            missing -= {kind for kind in missing if any(map(finds_no_ray, made.processes(kind)))}
            time.sleep(0.2)
        assert running.wait() == 0, made.log()
        assert not missing
        assert weights(made.run) == weights(simulated)
        theirs, ours = (json.loads(r.evaluation.read_text())["cells"] for r in (simulated, made.run))
        assert ours == [{**cell, **_as_they_leave(cell)} for cell in theirs]
        assert (made.run.path / "report.html").is_file() and "clients 3/3" in made.log()
        for domain in DOMAINS:
            kinds = [line["kind"] for line in read_receipts(made.home(domain) / "receipts.jsonl")]
            assert kinds == ["query", "train", "train", "evaluate"]
            assert "round 2 · sent" in made.log(domain, "join")
        _assert_nothing_private(made)
        made.output("revoke", "grid")
        assert "refuses this node" in _end_of(made, "grid")


def finds_no_ray(process: psutil.Process) -> bool:
    """Whether Ray is hidden from a running process."""
    with suppress(psutil.Error):
        return str(WITHOUT_RAY) in process.environ().get("PYTHONPATH", "").split(":")
    return False


def _as_they_leave(cell: dict[str, Any]) -> dict[str, float]:
    """A figure in four digits, of an amount of text in two."""
    amounts = {key: int(rounded(cell[key], 2)) for key in ("num_bytes", "num_tokens")}
    return {"bits_per_byte": rounded(cell["bits_per_byte"]), **amounts}


def _assert_nothing_private(made: FederationProcesses) -> None:
    """In no file of the coordinator's: words of the texts, paths of the domains, the user, the host."""
    texts = [json.loads(line)["text"] for d in DOMAINS for line in (SEEDS / f"{d}.jsonl").read_text().splitlines()]
    private = {text[:40] for text in texts} | {str(made.home(d)) for d in DOMAINS}
    private |= {f"{d}.jsonl" for d in DOMAINS} | {f"{getpass.getuser()}@", socket.gethostname()}
    private = {p for p in private if len(p) > 5 and p != "localhost"}  # a host named "vm" is in any file
    for path in (made.coordinator / "federation").rglob("*"):
        if path.is_file() and "flwr" not in path.parts:
            content = path.read_bytes()
            assert not [p for p in private if p.encode() in content], path


def _end_of(made: FederationProcesses, domain: str) -> str:
    made.members[domain].wait(120)
    return made.log(domain, "join")


def kill_one_kind(made: FederationProcesses, drawn: random.Random) -> list[str]:
    """Kill the processes, or the first, of a kind that is drawn until there is one: a server app is not there always."""
    for _ in range(100):
        kind, killed = drawn.choice(sorted(COMMAND_WORDS)), []
        for process in made.processes(kind)[: drawn.choice((1, 3))]:
            with suppress(psutil.NoSuchProcess):  # it may have ended by itself
                process.kill()
                killed.append(kind)
        if killed:
            return killed
        time.sleep(0.1)
    raise AssertionError("nothing was there to be killed")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_killed_the_model_is_the_same(
    seed: int, tmp_path: Path, tiny_folder: Path, simulated: RunFolder
) -> None:
    """SIGKILL of one process or two at random moments of a run; then it ends, or `--resume` ends it."""
    drawn = random.Random(seed)
    with running_federation(tmp_path, config_for(tiny_folder, with_data=False), tiny_folder) as made:
        running = made.start(made.coordinator, "run", made.config)
        time.sleep(drawn.uniform(0.5, 6.0))
        assert running.poll() is None
        killed = kill_one_kind(made, drawn)
        if drawn.random() < 0.5:
            time.sleep(drawn.uniform(0.5, 12.0))
            killed += kill_one_kind(made, drawn)
        code, tries = running.wait(400), 0
        completed = made.run.last_complete_round()
        while code and tries < 5:
            again = ["--resume"] if made.run.config.is_file() else []  # it may have ended before it began
            code, tries = made.rounds(*again), tries + 1
            assert made.run.last_complete_round() >= completed, killed
            completed = made.run.last_complete_round()
        assert code == 0, (killed, made.log(), made.log(command="serve"))
        assert weights(made.run) == weights(simulated), killed
