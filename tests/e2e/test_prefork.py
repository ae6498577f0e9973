"""A preforked trainer: its forks train like a new process, and start and end independently of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cogen.base import describe_base
from cogen.config import load_config
from cogen.errors import FederationError
from cogen.files import write_file
from cogen.node.node import Site
from cogen.node.prefork import can_fork, prefork_argv
from cogen.node.resident import PREFORKED, ResidentTrainer
from cogen.protocol.factors import to_arrays
from cogen.protocol.messages import TrainReply, TrainRequest
from cogen.protocol.settings import work_settings
from server.aggregate import first_global
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not can_fork(), reason="forks are for Linux without a GPU")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[tuple[psutil.Process, Path]]:
    """A preforked trainer of the tiny base, and its socket."""
    path = tmp_path_factory.mktemp("prefork") / "trainers.sock"
    process = subprocess.Popen(prefork_argv(path, 1, str(tiny_folder), "float32", "auto"))
    assert wait_until(path.exists, 60.0)
    yield psutil.Process(process.pid), path
    process.kill()
    process.wait()


@pytest.fixture
def preforked(started: tuple[psutil.Process, Path], monkeypatch: pytest.MonkeyPatch) -> psutil.Process:
    """At the socket that the environment names."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(PREFORKED, str(started[1]))
    return started[0]


def train(trainer: ResidentTrainer, config_file: Path, folder: Path, tokens: int = 512) -> TrainReply:
    """The first domain's first round, in the run folder `folder`."""
    config = load_config(config_file, [f"train.tokens_per_round={tokens}"])
    domain = config.domains[0]
    write_file(folder / "config.toml", config.to_toml().encode())
    current = first_global(describe_base(config.base.name), config)
    request = TrainRequest(run=str(folder), round=1, settings=work_settings(config, domain))
    site = Site(domain=domain.name, data=str(domain.data), base=config.base.name)
    reply = trainer.call(site, request.with_arrays(to_arrays(current)), folder / "logs")
    assert isinstance(reply, TrainReply)
    return reply


def test_forks_train_as_a_process_of_its_own(
    preforked: psutil.Process, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at a time, and then one that was started by itself: the same bits."""
    pair = [ResidentTrainer(), ResidentTrainer()]
    forked = [train(trainer, config_file, tmp_path / str(i)) for i, trainer in enumerate(pair)]
    assert [t.pid for t in pair] == [None, None]
    assert len(preforked.children()) == 2
    for trainer in pair:
        trainer.close()
    assert not psutil.wait_procs(preforked.children(), timeout=10.0)[1]
    monkeypatch.delenv(PREFORKED)
    alone = ResidentTrainer()
    own = train(alone, config_file, tmp_path / "own")
    assert alone.pid is not None
    alone.close()
    for reply in forked:
        same = reply.figures.model_copy(update={"seconds": own.figures.seconds})
        assert (same, reply.fingerprint) == (own.figures, own.fingerprint)
        assert {k: v.tobytes() for k, v in reply.arrays.items()} == {k: v.tobytes() for k, v in own.arrays.items()}


def test_a_fork_ends_with_its_caller_even_in_a_round(
    preforked: psutil.Process, config_file: Path, tmp_path: Path
) -> None:
    """Red: a fork that only looks for the end of its caller between two requests."""
    caller = os.fork()
    if not caller:
        try:
            train(ResidentTrainer(), config_file, tmp_path / "node", tokens=10_000_000)
        finally:
            os._exit(0)
    assert wait_until(lambda: any(tmp_path.glob("node/nodes/*/train.jsonl")), 60.0)
    forks = preforked.children()
    assert len(forks) == 1
    os.kill(caller, 9)
    os.waitpid(caller, 0)
    assert not psutil.wait_procs(forks, timeout=10.0)[1]
    assert preforked.is_running()


def test_a_base_that_cannot_be_loaded_is_the_callers_to_hear_of(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trainers.sock"
    with (
        open(tmp_path / "log", "wb") as log,
        subprocess.Popen(prefork_argv(path, 1, str(tmp_path / "nothing"), "auto", "auto"), stderr=log) as process,
    ):
        assert wait_until(path.exists, 60.0)
        monkeypatch.setenv(PREFORKED, str(path))
        trainer = ResidentTrainer()
        train(trainer, config_file, tmp_path / "node")  # this one has its base
        assert trainer.pid is None
        trainer.close()
        process.kill()
    assert "no such base model" in (tmp_path / "log").read_text()


def test_one_that_dies_is_told_and_the_next_call_gets_another(
    preforked: psutil.Process, config_file: Path, tmp_path: Path
) -> None:
    """Without the preforked trainer, a new process is started."""
    trainer = ResidentTrainer()
    first = train(trainer, config_file, tmp_path / "a")
    preforked.children()[0].kill()
    with pytest.raises(FederationError, match="the trainer process died"):
        train(trainer, config_file, tmp_path / "b")
    assert train(trainer, config_file, tmp_path / "c").arrays.keys() == first.arrays.keys()
    assert trainer.pid is None
    trainer.close()
    preforked.kill()
    preforked.wait()
    train(trainer, config_file, tmp_path / "d")
    assert trainer.pid is not None
    trainer.close()
