"""The cost of a training setting: by hand, from files, and the same for training, the data card and the rounds.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cogen.adapter import Adapter, Factors, Layout, layout_of
from cogen.base import Base, load_base
from cogen.cli.narrator import Narrator
from cogen.config import Train, load_config
from cogen.runs import RunFolder, read_lines
from cogen.train import throughput as probe
from cogen.train.cost import MemoryUse, TrainingCost, card_cost, cost_of, num_weights, training_cost
from cogen.train.schedule import plan_round
from cogen.train.start import start_factors, start_layouts
from cogen.train.throughput import measure_rate
from server.rounds import announce_costs
from tests.conftest import SEEDS
from tests.shell import Cogen

SETTINGS: dict[str, dict[str, Any]] = {
    "rank above the narrow side": {"rank": 40},
    "targets": {"rank": 5, "target_modules": ["q_proj", "layers.1.mlp"]},
    "patterns": {"rank": 4, "rank_pattern": {"layers.1.mlp.down_proj": 2, "mlp": 7}},
    "embeddings": {"rank": 3, "train_embeddings": True, "rank_pattern": {"embed_tokens": 6}},
}
# Of 10 in- and 20 outputs in the first layer; 34 and 6 in the second.
MODULES = {"layers.0.q": (12, 8), "layers.0.o": (8, 2), "layers.1.q": (30, 4), "layers.1.o": (3, 3)}


def test_cost_by_hand() -> None:
    """4 (8 + 12) and 2 (100 + 50) parameters of 4 bytes, and two moments. Red: d_in * d_out; one moment."""
    settings = Train(tokens_per_round=100, sequence_length=16, batch_size=3)  # 7 blocks, 3 steps
    layouts = {"a": Layout(12, 8, 4), "b": Layout(50, 100, 2)}
    found = cost_of(layouts, MODULES, MemoryUse(5000, 2.5, 3), plan_round(settings, 1, 1), settings)
    peak = 600_000_000 + 5000 + 16 * 380 + 2.5 * 16 * 3 * (20 + 10 + 34 + 6)
    assert found == TrainingCost(380, 2, 1520, 3040, int(peak), 3, 112)
    large = TrainingCost(4_884_480, 210, 19_537_920, 39_075_840, 2_980_000_000, 3, 6144)
    assert str(large) == (
        "4.88M trainable parameters in 210 modules · adapter 19.5 MB · optimiser 39.1 MB · memory about 3.0 GB"
        " · 3 steps · 6144 tokens"
    )


def test_of_activations_computed_anew_one_layer_and_the_inputs_are_kept() -> None:
    """Half of the 70 values, and 8 in front of each of 2 layers. Red: `gradient_checkpointing` skipped."""
    plain = Train(tokens_per_round=100, sequence_length=16, batch_size=3)
    anew = plain.model_copy(update={"gradient_checkpointing": True})
    peaks = [
        cost_of({}, MODULES, MemoryUse(0, 2.5, 3), plan_round(plain, 1, 1), s).peak_memory_bytes for s in (plain, anew)
    ]
    assert [peak - 600_000_000 for peak in peaks] == [2.5 * 48 * 70, 2.5 * 48 * (70 / 2 + 2 * 8)]


def test_the_card_has_the_same_and_the_time() -> None:
    cost = TrainingCost(212, 2, 848, 1696, 612_345_678, 1, 1024)
    found = card_cost(cost, 6000, 100.0)
    assert (found.num_tokens, found.tokens_per_second, found.epoch_minutes) == (1024, 100.0, 1.0)
    assert found.minutes == 1024 / 100 / 60
    assert (found.peak_memory_mb, found.adapter_mb) == (612.345678, 848 / 1e6)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_adapters_size_is_that_of_the_file(tiny: Base, tmp_path: Path, name: str) -> None:
    """Red: all modules, or all at train.rank; the embeddings skipped."""
    settings = Train.model_validate(SETTINGS[name])
    factors = start_factors(tiny.info.modules, settings, tiny.info.embeddings)
    assert start_layouts(tiny.info.modules, settings, tiny.info.embeddings) == layout_of(factors)
    embeddings = frozenset(tiny.info.embeddings) & factors.keys()
    Adapter(factors, tiny.info.name, tiny.info.fingerprint, {}, embeddings).save(tmp_path / "made")
    size = (tmp_path / "made" / "adapter_model.safetensors").stat().st_size
    cost = training_cost(tiny, settings)
    assert cost.num_modules == len(factors)
    header = 8 + int.from_bytes((tmp_path / "made" / "adapter_model.safetensors").read_bytes()[:8], "little")
    assert size - header == cost.adapter_bytes
    assert card_cost(cost, 1, 1.0).adapter_mb == cost.adapter_bytes / 1e6


@pytest.mark.parametrize("name", SETTINGS)
def test_the_rate_is_that_of_what_is_trained(tiny: Base, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Red: `init_factors` of all modules at train.rank."""
    settings = Train.model_validate({**SETTINGS[name], "sequence_length": 16, "batch_size": 1})
    seen: list[dict[str, Factors]] = []
    train = probe.train_round

    def spy(base: Base, start: dict[str, Factors], *args: Any, **options: Any) -> Any:
        seen.append(start)
        return train(base, start, *args, **options)

    monkeypatch.setattr(probe, "train_round", spy)
    assert measure_rate(tiny, [np.arange(1, 90, dtype=np.int32)], settings) > 0
    assert layout_of(seen[0]) == start_layouts(tiny.info.modules, settings, tiny.info.embeddings)


def test_memory_of_a_base_by_hand(tiny: Base, tiny_folder: Path) -> None:
    """Float32 and bfloat16 on the CPU, with fast layers and without. Red: one dtype's bytes for all; no copies."""
    settings = Train(rank=4, sequence_length=64, batch_size=4, gradient_accumulation_steps=2)
    half = load_base(str(tiny_folder), device="cpu", precision="bfloat16")
    values = sum(d_out + d_in for d_out, d_in in tiny.info.modules.values())
    weights = sum(p.numel() for p in tiny.model.parameters())
    parameters = 2 * 4 * (2 * 64 + 2 * 48 + 3 * 80)
    copies = 2 * sum(d_out * d_in for d_out, d_in in tiny.info.modules.values())
    assert num_weights(tiny.info) == weights
    for base, changes, value_bytes, blocks, size, more in (
        (tiny, {}, 6.5, 1, 4, copies),  # fast layers, a thread
        (tiny, {"cpu_kernels": "off"}, 8.6, 2, 4, 0),
        (half, {}, 4.0, 1, 2, copies),
        (half, {"cpu_kernels": "off"}, 3.3, 2, 2, 0),
    ):
        found = training_cost(base, settings.model_copy(update=changes)).peak_memory_bytes
        activations = value_bytes * 64 * blocks * values
        assert found == round(600e6 + size * weights + more + 16 * parameters + activations), (
            changes,
            base.model.dtype,
        )


def test_training_says_it_before_it_starts(cogen: Cogen, tiny_folder: Path, tiny: Base) -> None:
    """Red: the cost of other settings, or without memory."""
    options = ("--set", "train.sequence_length=32", "--set", "train.rank=3", "--set", 'train.target_modules=["q_proj"]')
    given = ("--base", tiny_folder, "--data", SEEDS / "grid.jsonl", "--domain", "grid", "--tokens", 64, "--out", "grid")
    code, _, err = cogen("train", *given, *options)
    assert code == 0, err
    _, said, *_ = (line for line in err.splitlines() if line.startswith("grid: "))  # after what was read
    settings = Train(tokens_per_round=64, sequence_length=32, rank=3, target_modules=("q_proj",))
    likely = load_base(str(tiny_folder))
    assert said == f"grid: {training_cost(likely, settings)}" and " · memory about 0.6 GB · 2 steps · 64 tok" in said
    size = Path("grid/adapter_model.safetensors").stat().st_size
    assert 0 < size - training_cost(tiny, settings).adapter_bytes < 2000


def test_a_round_says_it_for_every_domain(
    tiny: Base, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base of the config is float32, not loaded. Red: train.rank and train.tokens_per_round for every domain."""
    text = config_file.read_text().replace('name = "grid"\n', 'name = "grid"\nrank = 2\ntokens_per_round = 128\n')
    config_file.write_text(text)
    config, run = load_config(config_file), RunFolder(tmp_path / "run")
    run.create(config.to_toml())
    announce_costs(run, tiny.info, config)
    (event,) = read_lines(run.events_path)
    alone = {
        "clinical": training_cost(tiny, config.train),
        "grid": training_cost(tiny, config.train.model_copy(update={"rank": 2, "tokens_per_round": 128})),
        "materials": training_cost(tiny, config.train),
    }
    assert event["domains"] == {name: vars(cost) for name, cost in alone.items()}
    assert alone["grid"] == replace(
        alone["clinical"],
        num_parameters=alone["clinical"].num_parameters // 2,
        adapter_bytes=alone["clinical"].adapter_bytes // 2,
        optimizer_bytes=alone["clinical"].optimizer_bytes // 2,
        peak_memory_bytes=alone["clinical"].peak_memory_bytes - 8 * alone["clinical"].num_parameters,
        num_steps=1,
        num_tokens=128,
    )
    with Narrator() as narrator:
        narrator.on_event(event)
    said = capsys.readouterr().err.splitlines()
    assert said == [f"{name} · a round takes {cost}" for name, cost in alone.items()]
