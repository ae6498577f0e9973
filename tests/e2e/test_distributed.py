"""One adapter trained by two processes over gloo on the CPU, compared with training in one process.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cogen.adapter import Adapter
from cogen.base import Base
from tests.interrupted_training import Interrupted, interrupt_after
from tests.two_processes import CASES, SEEDS, launch, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both processes of `tests.two_processes` kept."""
    out = tmp_path_factory.mktemp("pair")
    for code, _, err in launch("tests.two_processes", tiny_folder, out, "cpu"):
        assert code == 0, err
    return out


def kept(pair: Path, index: int) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((pair / f"said-{index}.json").read_text())
    return values


def require_close(folder: Path, wanted: Adapter) -> None:
    """To 1e-4 of the factors' length: where a gradient is next to nothing, Adam turns its rounding into a step."""
    found = Adapter.load(folder).factors
    assert found.keys() == wanted.factors.keys()
    pairs = [(found[n], f) for n, f in wanted.factors.items()]
    off = sum(float((x.a - y.a).square().sum() + (x.b - y.b).square().sum()) for x, y in pairs)
    assert off / sum(float(y.b.square().sum()) for _, y in pairs) < 1e-8


@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one(tiny: Base, pair: Path, case: str) -> None:
    """Factors, losses and the step that early stopping keeps; the two hold the same bits.

    Red: gradients not added up; the mean over a process's own predicted tokens; the loss of one process alone.
    """
    alone = train(tiny, CASES[case])
    require_close(pair / f"{case}-0", alone.adapter)
    names = ("adapter_model.safetensors", "adapter_config.json")
    assert all((pair / f"{case}-0" / n).read_bytes() == (pair / f"{case}-1" / n).read_bytes() for n in names)
    said = kept(pair, 0)[case]
    assert said == kept(pair, 1)[case]
    assert said["loss_nats"] == pytest.approx(alone.result.loss_nats, rel=1e-6)
    best = alone.result.best
    assert (said["best"] or [None])[0] == (best and best.step)
    if best is not None:
        assert said["best"][1] == pytest.approx(best.bits_per_byte, rel=1e-6)


def test_gradients_are_those_of_one_process(tiny: Base, pair: Path, tmp_path: Path) -> None:
    """After one step Adam's first moment is a tenth of the clipped gradient.

    Red: clipped before it is added up.
    """
    with pytest.raises(Interrupted):
        train(tiny, CASES["plain"], state_path=tmp_path / "state", on_step=interrupt_after(1))
    wanted, found = (load_file(path) for path in (tmp_path / "state", pair / "state-of-step-1"))
    names = [name for name in wanted if name.endswith("exp_avg")]
    assert len(names) == 28
    assert sum(float(wanted[n].square().sum()) for n in names) ** 0.5 == pytest.approx(0.01, rel=1e-3), "clipped"
    for name in names:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def test_only_the_first_process_calls_back(pair: Path) -> None:
    """Red: on_step kept in every process."""
    assert (kept(pair, 0)["called"], kept(pair, 1)["called"]) == ([1, 2, 3], [])


def test_both_resume_from_the_state_of_the_first(tiny: Base, pair: Path) -> None:
    """To the bit what the two had without a stop. Red: the state read by the first process alone."""
    for index in range(2):
        names = ("resumed", "plain")
        resumed, plain = ((pair / f"{n}-{index}/adapter_model.safetensors").read_bytes() for n in names)
        assert resumed == plain
    assert kept(pair, 0)["resumed"] == kept(pair, 0)["plain"]


def test_the_command(tiny: Base, tiny_folder: Path, tmp_path: Path) -> None:
    """One adapter, said once. Red: every process saves and says."""
    out = tmp_path / "adapter"
    keys = (
        "tokens_per_round",
        "sequence_length",
        "batch_size",
        "learning_rate",
        "rank",
        "max_grad_norm",
        "cpu_kernels",
    )
    overrides = [word for k in keys for word in ("--set", f"train.{k}={getattr(CASES['plain'], k)}")]
    overrides += ["--set", "base.precision=float32"]
    data = ("--data", f"grid={SEEDS / 'grid.jsonl'}", "--heldout-frac", 0.15, "--domain", "grid")
    where = ("--base", tiny_folder, "--out", out)
    first, second = launch("cogen.cli.app", "train", *where, *data, *overrides)
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert "448 tokens" in first[1] and "trainable parameters" in first[2]
    assert second[1] == "" and "grid" not in second[2]
    require_close(out, train(tiny, CASES["plain"]).adapter)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("train", "--set", "train.batch_size=1"), "expected 2 or more blocks of a step, got train.batch_size = 1"),
        (("train", "--lr-range-test"), "cannot test learning rates: expected one process, got 2"),
        (("evaluate",), "cannot run cogen evaluate: expected one process, got 2"),
    ],
)
def test_one_line_from_all_of_them(tiny_folder: Path, tmp_path: Path, command: tuple[str, ...], words: str) -> None:
    """Red: every process prints its error."""
    options = ("--data", SEEDS / "grid.jsonl", "--domain", "d", "--base", tiny_folder, "--out", tmp_path / "a")
    first, second = launch("cogen.cli.app", *command, *(options if command[0] == "train" else ()))
    assert (first[0], second[0]) == (2, 2)
    assert words in first[2] and first[2].count("\n") == 1 and second[2] == ""
    assert not list(tmp_path.iterdir())
