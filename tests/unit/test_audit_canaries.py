"""Canaries: where they are planted, how often they are trained, and their exposure."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from cogen.audit.canaries import REPEATS, Canary, make_canaries, plant
from cogen.audit.exposure import canary_figures
from cogen.audit.scores import score_continuations
from cogen.audit.targets import Training
from cogen.base import Base
from cogen.config import Train
from cogen.data.pack import train_batch
from cogen.errors import ConfigError
from cogen.train.lora import attached
from cogen.train.mixture import make_stream, read_mixture
from tests.conftest import SEEDS
from tests.oracle.test_bpb import some_adapter


@pytest.fixture(scope="module")
def training(tiny: Base) -> Training:
    """Half of the blocks are replayed text."""
    settings = Train(
        tokens_per_round=128 * 256, sequence_length=256, replay=str(SEEDS / "education.jsonl"), replay_frac=0.5
    )
    return Training(settings, read_mixture(tiny, {"grid": SEEDS / "grid.jsonl"}, settings, 0.15))


def occurrences(tokens: np.ndarray, wanted: np.ndarray) -> int:
    windows = np.lib.stride_tricks.sliding_window_view(tokens, len(wanted))
    return int((windows == wanted).all(1).sum())


def test_a_canary_is_trained_as_often_as_it_says_and_nothing_else_moves(tiny: Base, training: Training) -> None:
    """Red: canaries over each other, over EOS, or in the replayed blocks."""
    canaries = make_canaries(tiny, 5, 3, num_alternatives=2).planted
    assert [c.repeats for c in canaries] == [1, 4, 16, 1, 4]
    plain, planted = make_stream(training.mixture, training.settings, 128), plant(training, canaries, 3)
    before, after = train_batch(plain, 0, 128), train_batch(planted, 0, 128)
    assert [occurrences(after.tokens, c.tokens) for c in canaries] == [1, 4, 16, 1, 4]
    assert sum(occurrences(before.tokens, c.tokens) for c in canaries) == 0
    assert (
        before.lengths == after.lengths and (before.tokens == tiny.eos_id).sum() == (after.tokens == tiny.eos_id).sum()
    )
    changed = int((before.tokens != after.tokens).sum())
    assert 0 < changed <= sum(len(c.tokens) * c.repeats for c in canaries)
    replayed = [b for b in range(128) if plain.num_other(b + 1) > plain.num_other(b)]  # type: ignore[attr-defined]
    assert len(replayed) == 64 and not set(replayed) & set(planted.plants)


def test_too_many_are_refused(tiny: Base, training: Training) -> None:
    short = Training(training.settings.model_copy(update={"tokens_per_round": 2048}), training.mixture)
    with pytest.raises(ConfigError, match="a fifth of the text"):
        plant(short, make_canaries(tiny, 6, 0, num_alternatives=1).planted, 0)


def test_they_differ_and_come_again_with_their_seed(tiny: Base) -> None:
    def texts(seed: int) -> list[str]:
        return [tiny.tokenizer.decode(c.tokens) for c in make_canaries(tiny, 6, seed, num_alternatives=2).planted]

    assert texts(1) == texts(1) and len({*texts(1), *texts(2)}) == 12
    assert all(text.startswith(" The access code of ") and text.endswith(".") for text in texts(1))


def test_exposure_and_detection_are_what_they_say(tiny: Base) -> None:
    """Red: a rank from the wrong end; a threshold that more than 1% of 200 never planted ones are above."""
    drawn, factors = make_canaries(tiny, 6, 4, num_alternatives=31), some_adapter(tiny, 0.3).factors
    found = {f.repeats: f for f in canary_figures(tiny, factors, drawn, "grid")}

    def nats(texts: list) -> np.ndarray:  # type: ignore[type-arg]
        return np.array([float(s.nats.sum()) for text in texts for s in score_continuations(tiny, [text])])

    planted = [c.text for c in drawn.planted]
    before, before_others = nats(planted), nats(list(drawn.unplanted))
    with attached(tiny.model, factors):
        after, after_others = nats(planted), nats(list(drawn.unplanted))
        others = [nats(list(some)) for some in drawn.alternatives]
    ratios, unplanted = before - after, before_others - after_others
    for repeats in REPEATS:
        which = [i for i, c in enumerate(drawn.planted) if c.repeats == repeats]
        ranks = [1 + sum(other < after[i] for other in others[i]) for i in which]
        figures = found[repeats]
        assert figures.mean_exposure_bits == pytest.approx(np.mean([math.log2(32 / rank) for rank in ranks]))
        assert figures.num_first == sum(rank == 1 for rank in ranks)
        is_found = [np.mean(unplanted >= ratios[i]) <= 0.01 for i in which]
        assert figures.true_positive_frac.value == np.mean(is_found)


def test_nothing_is_written(tiny: Base, training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted text is in memory alone, so that a kill leaves nothing behind."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file is made")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    monkeypatch.chdir(tmp_path)
    canaries: tuple[Canary, ...] = make_canaries(tiny, 3, 0, num_alternatives=1).planted
    train_batch(plant(training, canaries, 0), 0, 16)
    assert not list(tmp_path.iterdir())
