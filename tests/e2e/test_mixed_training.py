"""Replay, annealing and gradient accumulation: training stopped at any step and resumed equals uninterrupted training.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from cogen.adapter import factor_digest
from cogen.base import Base, load_base
from cogen.config import Train
from cogen.data import read_corpus
from cogen.errors import RunError
from cogen.train import loop
from cogen.train.corpus import prepare_corpus
from cogen.train.fast import frozen
from cogen.train.loop import Step
from cogen.train.mixture import make_stream, read_mixture
from cogen.train.schedule import plan_round
from cogen.train.single import TrainedAdapter, train_adapter
from tests.interrupted_training import Interrupted, interrupt_after
from tests.shell import Cogen

SEEDS = Path(__file__).parents[2] / "seeds"
NUM_STEPS = 8
SETTINGS = Train(
    tokens_per_round=22 * 64, sequence_length=64, batch_size=3, gradient_accumulation_steps=2, learning_rate=0.01, rank=4,
    replay=str(SEEDS / "materials.jsonl"), replay_frac=0.2,
    annealing=str(SEEDS / "education.jsonl"), annealing_frac=0.3, annealing_mix=0.5,
    checkpoint_seconds=1e-9,
)  # fmt: skip


@pytest.fixture(scope="module")
def corpora() -> dict[str, Path]:
    return {"grid": SEEDS / "grid.jsonl"}


def train(base: Base, corpora: Mapping[str, Path], settings: Train = SETTINGS, **options: Any) -> TrainedAdapter:
    return train_adapter(base, corpora, settings, domain="grid", heldout_frac=0.15, **options)


@pytest.fixture(scope="module")
def whole(tiny: Base, corpora: dict[str, Path]) -> TrainedAdapter:
    return train(tiny, corpora)


def cut_off(base: Base, corpora: Mapping[str, Path], path: Path, step: int, settings: Train = SETTINGS) -> None:
    """Leave a state of `step` steps done: step + 1 was made, and lost."""
    with pytest.raises(Interrupted):
        train(base, corpora, settings, on_step=interrupt_after(step), state_path=path)


@pytest.mark.parametrize("step", range(1, NUM_STEPS))
def test_stopped_at_every_step_and_resumed(
    tiny: Base, corpora: dict[str, Path], whole: TrainedAdapter, tmp_path: Path, step: int
) -> None:
    """Bits of factors and of Adam's state. Red: a stream that counts the blocks it has given."""
    path = tmp_path / "training.safetensors"
    cut_off(tiny, corpora, path, step)
    seen: list[Step] = []
    resumed = train(tiny, corpora, on_step=seen.append, state_path=path, resume=True)
    assert [s.step for s in seen] == list(range(step + 1, NUM_STEPS + 1))
    assert factor_digest(resumed.adapter.factors) == factor_digest(whole.adapter.factors)
    mine, theirs = resumed.result.state.moments, whole.result.state.moments
    assert mine.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in mine.items())
    assert resumed.adapter.manifest == whole.adapter.manifest


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "way", [{"cpu_kernels": "off"}, {"cpu_kernels": "int8"}, {"cpu_kernels": "int8", "gradient_checkpointing": True}]
)
def test_so_it_is_in_parts_rounded_and_computed_anew(
    tiny_folder: Path,
    corpora: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    way: dict[str, Any],
) -> None:
    """Without fast layers a step is in parts; with them it never is. Red: a state without Adam's second moments."""
    monkeypatch.setattr(frozen, "NARROW", 1)  # the tiny base is narrower than what is rounded otherwise
    base = load_base(str(tiny_folder), device="cpu", precision=precision)
    settings = SETTINGS.model_copy(update=way)
    parts: list[int] = []
    steps = loop.step_batches
    monkeypatch.setattr(loop, "step_batches", lambda *given: parts.append(given[3]) or steps(*given))
    through = train(base, corpora, settings)
    path = tmp_path / "training.safetensors"
    cut_off(base, corpora, path, 3, settings)
    resumed = train(base, corpora, settings, state_path=path, resume=True)
    assert set(parts[: NUM_STEPS - 1]) == ({2} if way["cpu_kernels"] == "off" else {3})
    assert factor_digest(resumed.adapter.factors) == factor_digest(through.adapter.factors)
    mine, theirs = resumed.result.state.moments, through.result.state.moments
    assert all(torch.equal(v, theirs[k]) for k, v in mine.items())


def origins(base: Base, corpora: Mapping[str, Path], settings: Train, num_rounds: int) -> list[str]:
    """Whence each block of all rounds is, by the text of its first segment."""
    total = plan_round(settings, 1, num_rounds).total_blocks
    stream = make_stream(read_mixture(base, corpora, settings, 0.15), settings, total)
    texts = {n: [d.text for d in read_corpus(SEEDS / f"{n}.jsonl")] for n in ("grid", "materials", "education")}
    found = []
    for index in range(total):
        words = base.tokenizer.decode(stream.segments(index)[0]).replace("<eos>", "")
        found += [name for name, of in texts.items() if any(words in text for text in of)]
    assert len(found) == total
    return found


@pytest.mark.parametrize("num_rounds", [1, 2, 4])
def test_the_annealing_is_the_end_of_all_rounds(tiny: Base, corpora: dict[str, Path], num_rounds: int) -> None:
    """80 blocks, the last 20 half of them education; of the other 70, 14 replayed. Red: the end of each round."""
    settings = SETTINGS.model_copy(update={"tokens_per_round": 80 * 64 // num_rounds, "annealing_frac": 0.25})
    found = origins(tiny, corpora, settings, num_rounds)
    assert "education" not in found[:60]
    assert found[60:].count("education") == 10
    assert Counter(found) == {"grid": 56, "materials": 14, "education": 10}


def test_each_part_changes_what_is_learnt(tiny: Base, corpora: dict[str, Path], whole: TrainedAdapter) -> None:
    plain = SETTINGS.model_copy(update={"replay": None, "annealing": None})
    without = [{"replay": None}, {"annealing": None}, {"replay_frac": 0.3}, {"annealing_mix": 0.9}]
    tries = [SETTINGS.model_copy(update=change) for change in without]
    digests = {factor_digest(train(tiny, corpora, s).adapter.factors) for s in (plain, *tries)}
    assert len(digests | {factor_digest(whole.adapter.factors)}) == 6


def test_the_manifest_holds_hashes_and_no_paths(tiny: Base, whole: TrainedAdapter) -> None:
    manifest = whole.adapter.manifest
    assert manifest["replay_sha256"] == prepare_corpus(tiny, SEEDS / "materials.jsonl", None, 0.15).sha256
    assert manifest["annealing_sha256"] == prepare_corpus(tiny, SEEDS / "education.jsonl", None, 0.15).sha256
    assert manifest["settings"]["replay_frac"] == 0.2
    assert str(SEEDS) not in json.dumps(manifest)


def test_other_replayed_text_is_another_training(tiny: Base, corpora: dict[str, Path], tmp_path: Path) -> None:
    """A path may change, its content may not. Red: the paths in the key; the digests dropped of it."""
    path, moved = tmp_path / "training.safetensors", tmp_path / "moved.jsonl"
    cut_off(tiny, corpora, path, 2)
    for key in ("replay", "annealing"):
        other = SETTINGS.model_copy(update={key: str(SEEDS / "construction.jsonl")})
        with pytest.raises(RunError, match="cannot resume"):
            train(tiny, corpora, other, state_path=path, resume=True)
    moved.write_bytes((SEEDS / "materials.jsonl").read_bytes())
    same = SETTINGS.model_copy(update={"replay": str(moved)})
    assert train(tiny, corpora, same, state_path=path, resume=True).result.num_steps == NUM_STEPS


def test_replayed_text_that_is_held_out_is_not_trained_on(tiny: Base, corpora: dict[str, Path]) -> None:
    """Forgetting can then be measured on it."""
    settings = SETTINGS.model_copy(update={"replay": str(SEEDS / "grid.jsonl"), "annealing": None})
    mixture = read_mixture(tiny, corpora, settings, 0.15)
    stream: Any = make_stream(mixture, settings, 22)
    assert stream.other.epoch_tokens == stream.main.epoch_tokens


def test_from_the_command_line(cogen: Cogen, tiny_folder: Path) -> None:
    options = ["train", "--base", tiny_folder, "--data", SEEDS / "grid.jsonl", "--domain", "grid", "--tokens", 512]
    options += ["--set", "train.sequence_length=64", "--set", "train.batch_size=4"]
    options += ["--set", "train.gradient_accumulation_steps=2"]
    mixed = ["--replay", SEEDS / "materials.jsonl", "--annealing", SEEDS / "education.jsonl"]
    code, _, err = cogen(*options, *mixed, "--out", "mixed")
    assert code == 0, err
    manifest = json.loads(Path("mixed/cogen.json").read_text())
    assert {"replay_sha256", "annealing_sha256"} <= manifest.keys()
    code, _, err = cogen(*options, "--replay", "none.jsonl", "--out", "other")
    assert code == 2 and "no such path" in err
    code, _, err = cogen(*options, "--set", "train.gradient_accumulation_steps=5", "--out", "other")
    assert code == 2 and "train.gradient_accumulation_steps = 5 is above train.batch_size = 4" in err
