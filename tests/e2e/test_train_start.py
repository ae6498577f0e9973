"""`cogen train --start`: an adapter is trained on, in its own form, and says from what."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from cogen.adapter import Adapter, Factors
from cogen.base import Base
from cogen.config import Train
from cogen.train.loop import train_round
from cogen.train.lora import init_factors
from cogen.train.mixture import make_stream, read_mixture
from cogen.train.schedule import plan_round
from tests.conftest import SEEDS
from tests.shell import Cogen, refused

RATE = 0.01


@pytest.fixture
def start(tiny: Base, tmp_path: Path) -> Path:
    """Rank 3, another scaling than the default, some modules only."""
    modules = {name: shape for name, shape in tiny.info.modules.items() if "mlp" in name}
    factors = init_factors(modules, 3, 0.5, 1)
    for number, f in enumerate(factors.values()):
        f.b.normal_(0, 0.05, generator=torch.Generator().manual_seed(number))
    Adapter(factors, tiny.info.name, tiny.info.fingerprint, {"kind": "global"}).save(tmp_path / "start")
    return tmp_path / "start"


def command(base: Base, out: Path, *more: object) -> tuple[object, ...]:
    data = ("--base", base.info.name, "--data", SEEDS / "grid.jsonl", "--domain", "grid", "--tokens", 512)
    settings = ("--set", "train.sequence_length=64", "--set", "base.precision='float32'")
    return ("train", *data, *settings, "--set", f"train.learning_rate={RATE}", "--out", out, *more)


def test_it_is_trained_on_in_its_own_form(cogen: Cogen, tiny: Base, start: Path, tmp_path: Path) -> None:
    """The bits of the loop itself from these factors. Red: fresh factors; the scaling of the settings; all modules."""
    code, _, err = cogen(*command(tiny, tmp_path / "out", "--start", start))
    assert code == 0, err
    given, found = Adapter.load(start), Adapter.load(tmp_path / "out")
    settings = Train(tokens_per_round=512, sequence_length=64, learning_rate=RATE)
    mixture = read_mixture(tiny, {"grid": str(SEEDS / "grid.jsonl")}, settings, 0.05)
    stream = make_stream(mixture, settings, 8)
    expected = train_round(tiny, given.factors, stream, plan_round(settings, 1, 1), settings).factors
    assert found.factors.keys() == given.factors.keys()
    for name, f in found.factors.items():
        assert (f.rank, f.scaling) == (3, 0.5)
        assert torch.equal(f.a, expected[name].a)
        assert torch.equal(f.b, expected[name].b)
    assert not torch.equal(*(next(iter(a.factors.values())).b for a in (given, found)))
    assert found.manifest["parents"] == [{"name": "start", "factors_sha256": given.digest}]
    assert (found.manifest["settings"]["rank"], found.manifest["settings"]["alpha"]) == (3, 1.5)


def test_what_cannot_be_trained_on_is_refused(cogen: Cogen, tiny: Base, start: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    patterns = ("--start", start, "--set", 'train.target_modules=["mlp"]')
    refused(cogen(*command(tiny, out, *patterns)), "no train.target_modules")
    refused(cogen(*command(tiny, out, "--start", tmp_path / "nothing")), "nothing")
    other = tmp_path / "other"
    shutil.copytree(start, other)
    manifest = json.loads((other / "cogen.json").read_text())
    manifest["fingerprint"]["weights"] = "0" * 64
    (other / "cogen.json").write_text(json.dumps(manifest))
    refused(cogen(*command(tiny, out, "--start", other)), "the adapter to start from")
    assert not out.exists()


def test_a_saved_state_of_another_start_is_not_continued(
    cogen: Cogen, tiny: Base, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red: the key of the state forgets where training began."""
    out = tmp_path / "out"
    save, often = Adapter.save, ("--set", "train.checkpoint_seconds=0.000001")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Adapter, "save", fail)
    cogen(*command(tiny, out, "--start", start, *often))
    assert (tmp_path / ".out.training").is_file()
    monkeypatch.setattr(Adapter, "save", save)
    given = Adapter.load(start)
    moved = {n: Factors(f.a, 2 * f.b, f.scaling) for n, f in given.factors.items()}
    Adapter(moved, given.base_name, given.fingerprint, {"kind": "global"}).save(tmp_path / "moved")
    code, _, err = cogen(*command(tiny, out, "--start", tmp_path / "moved", "--resume", *often))
    assert code == 2
    assert "cannot resume" in err
    assert cogen(*command(tiny, out, "--start", start, "--resume", *often))[0] == 0
