"""Early stopping: the best factors are kept and reported, and an interruption changes nothing.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cogen.adapter import Factors, factor_digest
from cogen.base import Base
from cogen.config import Train
from cogen.data import heldout_windows, read_corpus, split_documents
from cogen.errors import DataError
from cogen.evaluate.score import score_windows
from cogen.train.lora import attached
from cogen.train.mixture import make_stream, read_mixture
from cogen.train.single import TrainedAdapter, train_adapter
from cogen.train.state import Best, better, is_due, is_over
from tests.interrupted_training import Interrupted, interrupt_after

SEEDS = Path(__file__).parents[2] / "seeds"
# So high a rate that the loss soon rises: the best lies in the middle.
SETTINGS = Train(
    tokens_per_round=30 * 64, sequence_length=64, batch_size=1, learning_rate=0.1, rank=4, checkpoint_seconds=1e-9,
    early_stop_patience=2, early_stop_every=2, early_stop_frac=0.2, early_stop_tokens=600,
)  # fmt: skip


@pytest.fixture(scope="module")
def corpora() -> dict[str, Path]:
    return {"grid": SEEDS / "grid.jsonl"}


def train(base: Base, corpora: Mapping[str, Path], settings: Train = SETTINGS, **options: Any) -> TrainedAdapter:
    return train_adapter(base, corpora, settings, domain="grid", heldout_frac=0.15, **options)


@pytest.fixture(scope="module")
def whole(tiny: Base, corpora: dict[str, Path]) -> TrainedAdapter:
    return train(tiny, corpora)


def test_patience_by_hand() -> None:
    """2.0, 1.8, 1.9, 1.8, 1.7, ...: a tie is no improvement, an improvement starts the count anew."""
    settings, best = SETTINGS.model_copy(update={"early_stop_patience": 3}), None
    trace = []
    for n, bits in enumerate([2.0, 1.8, 1.9, 1.8, 1.7, 1.75, 1.75, 1.75], start=1):
        assert not is_over(best, settings)
        best = better(best, bits, n, lambda n=n: {str(n): None})  # type: ignore[misc]
        trace.append((best.step, best.num_worse, *best.factors))
    assert trace[:5] == [(1, 0, "1"), (2, 0, "2"), (2, 1, "2"), (2, 2, "2"), (5, 0, "5")]
    assert best is not None and (best.bits_per_byte, best.num_worse) == (1.7, 3) and is_over(best, settings)
    assert [n for n in range(1, 8) if is_due(n, 7, settings)] == [2, 4, 6, 7]


def test_it_stops_and_keeps_the_best(tiny: Base, corpora: dict[str, Path], whole: TrainedAdapter) -> None:
    """The factors are those of the best step, and score there what the manifest says. Red: the last factors kept."""
    said = whole.adapter.manifest["early_stop"]
    assert 0 < said["best_step"] < said["last_step"] < 30
    assert said["last_step"] == said["best_step"] + 2 * 2
    assert whole.result.num_tokens == said["best_step"] * 64 == whole.adapter.manifest["num_tokens"]
    mixture = read_mixture(tiny, corpora, SETTINGS, 0.15)
    windows = heldout_windows(mixture.validation(), tiny.tokenizer, 64, 600)
    with attached(tiny.model, whole.adapter.factors):
        assert score_windows(tiny, windows, "best", "grid").bits_per_byte == said["bits_per_byte"]


@pytest.mark.parametrize("since_best", [-1, 0, 2, 3])
def test_stopped_and_resumed(
    tiny: Base, corpora: dict[str, Path], whole: TrainedAdapter, tmp_path: Path, since_best: int
) -> None:
    """Red: the best, or the count of evaluations since, dropped of the state."""
    step = whole.adapter.manifest["early_stop"]["best_step"] + since_best
    path = tmp_path / "training.safetensors"
    with pytest.raises(Interrupted):
        train(tiny, corpora, on_step=interrupt_after(step), state_path=path)
    resumed = train(tiny, corpora, state_path=path, resume=True)
    assert factor_digest(resumed.adapter.factors) == factor_digest(whole.adapter.factors)
    assert resumed.adapter.manifest == whole.adapter.manifest


def test_the_validation_part_is_neither_trained_on_nor_held_out(tiny: Base, corpora: dict[str, Path]) -> None:
    """Red: the held-out part used for the choice; the validation part trained on."""
    mixture = read_mixture(tiny, corpora, SETTINGS, 0.15)
    split = split_documents(read_corpus(corpora["grid"]).documents, 0.15, "grid")
    validation = {d.id for d in mixture.validation()}
    assert validation and not validation & {d.id for d in split.heldout}
    stream: Any = make_stream(mixture, SETTINGS, 30)
    assert len(stream.documents) == len(split.train) - len(validation)


def test_off_it_trains_on_all_and_says_nothing(tiny: Base, corpora: dict[str, Path]) -> None:
    off = SETTINGS.model_copy(update={"early_stop_patience": 0, "tokens_per_round": 256})
    assert read_mixture(tiny, corpora, off, 0.15).validation_frac == 0.0
    made = train(tiny, corpora, off)
    assert made.result.best is None and "early_stop" not in made.adapter.manifest


def test_a_corpus_too_small_for_it_is_refused(tiny: Base, corpora: dict[str, Path]) -> None:
    all_validation = SETTINGS.model_copy(update={"early_stop_frac": 0.85})
    with pytest.raises(DataError, match=r"corpus too small to hold anything out"):
        train(tiny, corpora, all_validation)


def test_a_score_that_is_no_number_is_never_the_best() -> None:
    nan, factors = float("nan"), dict[str, Factors]
    assert better(Best(factors(), 2.0, 3), nan, 4, factors) == Best({}, 2.0, 3, 1)
