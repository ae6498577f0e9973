"""`train_adapter` interrupted and resumed, repeated, and with wrong state files.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cogen.adapter import Factors, factor_digest
from cogen.base import Base
from cogen.config import Train
from cogen.data.pack import Stream
from cogen.errors import AlteredFile, RunError
from cogen.train.loop import Step, TrainingError, train_round
from cogen.train.lora import init_factors
from cogen.train.mixture import make_stream, read_mixture
from cogen.train.schedule import plan_round
from cogen.train.single import TrainedAdapter, train_adapter
from cogen.train.state import TrainState
from tests.interrupted_training import Interrupted, interrupt_after

SEEDS = Path(__file__).parents[2] / "seeds"
SETTINGS = Train(
    tokens_per_round=448, sequence_length=64, batch_size=1, learning_rate=0.01, rank=4, checkpoint_seconds=1e-9
)
NUM_STEPS = 7


@pytest.fixture(scope="module")
def corpora() -> dict[str, Path]:
    return {name: SEEDS / f"{name}.jsonl" for name in ("grid", "clinical")}


def train(base: Base, corpora: Mapping[str, Path], settings: Train = SETTINGS, **options: Any) -> TrainedAdapter:
    return train_adapter(base, corpora, settings, domain="grid", heldout_frac=0.15, **options)


def stream_of(base: Base, corpora: Mapping[str, Path], settings: Train = SETTINGS) -> Stream:
    total = plan_round(settings, 1, 1).total_blocks
    return make_stream(read_mixture(base, corpora, settings, 0.15), settings, total)


def cut_off(base: Base, corpora: Mapping[str, Path], path: Path, step: int) -> None:
    """Leave a state of `step` steps done: step + 1 was made, and lost."""
    with pytest.raises(Interrupted):
        train(base, corpora, on_step=interrupt_after(step), state_path=path)


def same_tensors(mine: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> bool:
    return mine.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in mine.items())


@pytest.fixture(scope="module")
def whole(tiny: Base, corpora: dict[str, Path]) -> TrainedAdapter:
    return train(tiny, corpora)


@pytest.mark.parametrize("step", [1, 5])
def test_stop_and_resume_is_never_having_stopped(
    tiny: Base, corpora: dict[str, Path], whole: TrainedAdapter, tmp_path: Path, step: int
) -> None:
    """Red: moments dropped of the state; the block counted from 0 again; the sum of losses forgotten."""
    path = tmp_path / "training.safetensors"
    cut_off(tiny, corpora, path, step)
    seen: list[Step] = []
    resumed = train(tiny, corpora, on_step=seen.append, state_path=path, resume=True)
    assert [s.step for s in seen] == list(range(step + 1, NUM_STEPS + 1))
    assert seen[-1].num_tokens == resumed.result.num_tokens == whole.result.num_tokens == 448
    assert factor_digest(resumed.adapter.factors) == factor_digest(whole.adapter.factors)
    assert same_tensors(resumed.result.state.moments, whole.result.state.moments)
    assert resumed.result.loss_nats == whole.result.loss_nats
    assert resumed.adapter.manifest == whole.adapter.manifest


def test_cut_twice(tiny: Base, corpora: dict[str, Path], whole: TrainedAdapter, tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    cut_off(tiny, corpora, path, 2)
    with pytest.raises(Interrupted):
        train(tiny, corpora, on_step=interrupt_after(4), state_path=path, resume=True)
    resumed = train(tiny, corpora, state_path=path, resume=True)
    assert factor_digest(resumed.adapter.factors) == factor_digest(whole.adapter.factors)
    assert resumed.result.loss_nats == whole.result.loss_nats


def test_without_resume_a_saved_state_is_not_read(
    tiny: Base, corpora: dict[str, Path], whole: TrainedAdapter, tmp_path: Path
) -> None:
    path = tmp_path / "training.safetensors"
    cut_off(tiny, corpora, path, 3)
    seen: list[Step] = []
    again = train(tiny, corpora, on_step=seen.append, state_path=path)
    assert [s.step for s in seen] == list(range(1, NUM_STEPS + 1))
    assert factor_digest(again.adapter.factors) == factor_digest(whole.adapter.factors)


def test_a_saved_state_holds_moments_and_factors_bit_for_bit(tiny: Base, tmp_path: Path) -> None:
    moments = {"m.A.exp_avg": torch.randn(3, 4), "m.A.step": torch.tensor(5.0)}
    factors = {"m": Factors(torch.randn(2, 4), torch.randn(5, 2), 0.3)}
    TrainState(moments, 5, 12.5, factors).save(tmp_path / "s.safetensors", "key")
    found = TrainState.load(tmp_path / "s.safetensors", "key")
    assert same_tensors(found.moments, moments)
    assert found.factors is not None and factor_digest(found.factors) == factor_digest(factors)
    assert (found.num_steps_done, found.sum_loss_nats) == (5, 12.5)
    TrainState(moments).save(tmp_path / "between.safetensors", "key")
    assert TrainState.load(tmp_path / "between.safetensors", "key").factors is None


def test_a_state_of_other_data_or_settings_is_refused(tiny: Base, corpora: dict[str, Path], tmp_path: Path) -> None:
    """Red: the key left unchecked in TrainState.load."""
    path = tmp_path / "training.safetensors"
    cut_off(tiny, corpora, path, 1)
    other_data = {**corpora, "clinical": SEEDS / "materials.jsonl"}
    tries: list[tuple[Mapping[str, Path], Train]] = [
        (other_data, SETTINGS),
        ({"grid": corpora["grid"]}, SETTINGS),
        (corpora, SETTINGS.model_copy(update={"learning_rate": 0.02})),
        (corpora, SETTINGS.model_copy(update={"seed": 1})),
        (corpora, SETTINGS.model_copy(update={"rank": 3})),
    ]
    for data, settings in tries:
        with pytest.raises(RunError, match="cannot resume: expected the state of this data") as refused:
            train(tiny, data, settings, state_path=path, resume=True)
        assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(RunError, match="cannot resume"):
        train_adapter(tiny, corpora, SETTINGS, domain="grid", heldout_frac=0.3, state_path=path, resume=True)
    seldom = SETTINGS.model_copy(update={"checkpoint_seconds": 600.0})
    assert train(tiny, corpora, seldom, state_path=path, resume=True).result.num_tokens == 448


@pytest.mark.parametrize("content", [b"", b"no tensors", None], ids=["empty", "text", "foreign"])
def test_what_is_no_state_is_refused(
    tiny: Base, corpora: dict[str, Path], tmp_path: Path, content: bytes | None
) -> None:
    from safetensors.torch import save

    path = tmp_path / "training.safetensors"
    path.write_bytes(save({"x": torch.ones(2)}) if content is None else content)
    with pytest.raises(RunError, match="expected a saved training state as it was written") as refused:
        train(tiny, corpora, state_path=path, resume=True)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("place", ["metadata", "moment", "factor", "name"])
def test_a_state_that_was_altered_is_refused(tiny: Base, tmp_path: Path, place: str) -> None:
    """One bit, or the state of another round in its place. Red: each of them without a share in the hash."""
    path = tmp_path / "state-0001.safetensors"
    factors = {"m": Factors(torch.full((2, 4), 0.25), torch.full((5, 2), 0.125), 0.5)}
    TrainState({"m.A.exp_avg": torch.full((3, 4), 0.75)}, 5, 12.5, factors).save(path, "key")
    content, values = bytearray(path.read_bytes()), {"moment": 0.75, "factor": 0.125}
    if place == "name":
        path = tmp_path / "state-0002.safetensors"
    elif place == "metadata":
        content[content.index(b"12.5") + 1] ^= 1
    else:
        content[content.index(torch.tensor(values[place]).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(AlteredFile, match=r"cannot resume: expected .* as it was written, got .* remove it") as refused:
        TrainState.load(path, "key")
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_one_seed_gives_one_result(tiny: Base, corpora: dict[str, Path], whole: TrainedAdapter) -> None:
    """Red: a generator that is not seeded."""
    torch.manual_seed(1234)
    again = train(tiny, corpora)
    assert factor_digest(again.adapter.factors) == factor_digest(whole.adapter.factors)
    assert again.result.loss_nats == whole.result.loss_nats


def test_another_seed_gives_another_start_and_another_order(tiny: Base, corpora: dict[str, Path]) -> None:
    """B starts at 0, so the first loss tells the blocks alone; and at next to no rate, A stays where it began.

    Red: seed 0 for init_factors; seed 0 for the stream.
    """
    first: list[float] = []
    for seed in (0, 1):
        seen: list[Step] = []
        still = SETTINGS.model_copy(update={"seed": seed, "learning_rate": 1e-9})
        factors = train(tiny, corpora, still, on_step=seen.append).adapter.factors
        first.append(seen[0].loss_nats)
        for name, f in init_factors(tiny.info.modules, 4, 2.0, seed).items():
            torch.testing.assert_close(factors[name].a, f.a, rtol=0, atol=1e-6)
    assert first[0] != first[1]


def test_every_module_learns_and_the_loss_falls(tiny: Base, corpora: dict[str, Path]) -> None:
    """Red: the gradient's sign turned in the chunked loss; zero_grad before step."""
    losses: list[float] = []
    settings = Train(tokens_per_round=48 * 128, sequence_length=64, batch_size=2, learning_rate=0.02, rank=8)
    trained = train(tiny, corpora, settings, on_step=lambda s: losses.append(s.loss_nats))
    assert len(losses) == 48
    first, last = sum(losses[:8]) / 8, sum(losses[-8:]) / 8
    assert last < first - 0.4
    assert trained.result.loss_nats == pytest.approx(sum(losses) / 48, rel=1e-12)
    assert all(float(f.b.abs().max()) > 0 for f in trained.adapter.factors.values())
    assert trained.adapter.fingerprint == tiny.info.fingerprint


def test_moments_of_an_earlier_round_live_on(tiny: Base, corpora: dict[str, Path]) -> None:
    """Two rounds with the state handed on are one run of twice the steps, bit for bit."""
    stream = stream_of(tiny, corpora)
    start = init_factors(tiny.info.modules, 4, 2.0, seed=0)
    first, second = (plan_round(SETTINGS, n, 2) for n in (1, 2))
    one = train_round(tiny, start, stream, first, SETTINGS)
    two = train_round(tiny, one.factors, stream, second, SETTINGS, state=one.state)
    afresh = train_round(tiny, one.factors, stream, second, SETTINGS)
    both = train_round(tiny, start, stream, replace(first, num_blocks=14, num_steps=14), SETTINGS)
    assert factor_digest(two.factors) == factor_digest(both.factors)
    assert same_tensors(two.state.moments, both.state.moments)
    assert factor_digest(afresh.factors) != factor_digest(both.factors)


def test_frozen_directions_are_felt_and_not_trained(tiny: Base, corpora: dict[str, Path]) -> None:
    stream = stream_of(tiny, corpora)
    start = init_factors(tiny.info.modules, 2, 2.0, seed=0)
    rest = {n: Factors(f.a, torch.ones_like(f.b) * 0.1, 2.0) for n, f in start.items()}
    kept = factor_digest(rest)
    plan = replace(plan_round(SETTINGS, 1, 1), num_blocks=2, num_steps=2)
    without = train_round(tiny, start, stream, plan, SETTINGS)
    found = train_round(tiny, start, stream, plan, SETTINGS, frozen=rest)
    assert factor_digest(rest) == kept
    assert found.loss_nats != without.loss_nats
    assert {n: f.rank for n, f in found.factors.items()} == dict.fromkeys(start, 2)


def test_a_loss_that_is_not_finite_is_an_error(tiny: Base, corpora: dict[str, Path]) -> None:
    """Red: _finite lets NaN through. The base is clean afterwards."""
    stream = stream_of(tiny, corpora)
    start = init_factors(tiny.info.modules, 2, 2.0, seed=0)
    name = next(iter(start))
    start[name] = Factors(start[name].a, torch.full_like(start[name].b, math.nan), 2.0)
    with pytest.raises(TrainingError, match=r"expected a finite loss, got nan \(round 1, step 1\)") as refused:
        train_round(tiny, start, stream, plan_round(SETTINGS, 1, 1), SETTINGS)
    assert "train.learning_rate" in str(refused.value) and "\n" not in str(refused.value)
    assert not any("lora" in n for n, _ in tiny.model.named_modules())
