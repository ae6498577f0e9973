"""A relay of a real federation: its processes give the model of a simulation, whichever is killed; consent is asked."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from cogen.config import load_config
from cogen.node.receipt import read_receipts
from cogen.runs import RunFolder, read_lines
from server.server_app import app as server_app
from tests.e2e.test_deployment import kill_one_kind
from tests.federation_processes import DOMAINS, FederationProcesses, config_for, running_federation
from tests.in_process_grid import InProcessGrid

RELAY = {"schedule": "relay", "robust": "none", "wire": "int8"}


def adapters(run: RunFolder) -> Mapping[int, bytes]:
    """The global adapter of every round."""
    return {n: (run.round(n) / "global/adapter_model.safetensors").read_bytes() for n in (0, 1, 2)}


def simulated(place: Path, base: Path) -> Mapping[int, bytes]:
    place.mkdir()
    (place / "care.toml").write_text(config_for(base, with_data=True, **RELAY))
    run = RunFolder(place / "run")
    run.create(load_config(place / "care.toml").to_toml())
    server_app(InProcessGrid(3), Context(1, 0, {}, RecordDict(), {"run": str(run.path), "config": ""}))
    return adapters(run)


def consent(made: FederationProcesses) -> None:
    for domain in DOMAINS:
        policy = made.home(domain) / "policy.toml"
        policy.write_text(policy.read_text() + "share_expert = true\n")


@pytest.mark.slow
def test_a_relay_needs_every_domains_consent(tmp_path: Path, tiny_folder: Path) -> None:
    """Refused in words at first; then the model is that of a simulation, and each domain has its visits in its receipts."""
    config = config_for(tiny_folder, with_data=False, **RELAY)
    with running_federation(tmp_path / "real", config, tiny_folder) as made:
        assert made.rounds() == 2
        assert "in a relay this domain's adapter is sent to the next one" in made.log()
        consent(made)
        assert made.rounds("--overwrite") == 0, made.log()
        assert adapters(made.run) == simulated(tmp_path / "simulated", tiny_folder)
        events = read_lines(made.run.events_path)
        assert [e["event"] for e in events].count("visit_started") == 6
        for domain in DOMAINS:
            kinds = [line["kind"] for line in read_receipts(made.home(domain) / "receipts.jsonl")]
            assert kinds.count("train") >= 2 and kinds[-1] == "evaluate"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_killed_in_a_relay_the_model_is_the_same(seed: int, tmp_path: Path, tiny_folder: Path) -> None:
    """SIGKILL of a process or two at random moments; the run ends, or `--resume` ends it, with the same bits."""
    drawn = random.Random(seed)
    config = config_for(tiny_folder, with_data=False, **RELAY)
    with running_federation(tmp_path / "real", config, tiny_folder) as made:
        consent(made)
        running = made.start(made.coordinator, "run", made.config)
        time.sleep(drawn.uniform(2.0, 12.0))
        killed = kill_one_kind(made, drawn) if running.poll() is None else []
        code, tries = running.wait(400), 0
        while code and tries < 5:
            code, tries = made.rounds(*(["--resume"] if made.run.config.is_file() else [])), tries + 1
        assert code == 0, (killed, made.log(), made.log(command="serve"))
        assert adapters(made.run) == simulated(tmp_path / "simulated", tiny_folder), killed
