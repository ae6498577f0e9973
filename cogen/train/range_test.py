"""The learning-rate range test: a few steps at each rate from the same start, to find the highest stable rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.base import leading_id
from cogen.config import Data, Train
from cogen.data import Window
from cogen.data.account import tell_losses
from cogen.data.pack import Stream
from cogen.errors import TrainingError
from cogen.train.likelihood import sum_nats
from cogen.train.loop import Step, train_round
from cogen.train.lora import attached
from cogen.train.mixture import make_stream, read_mixture
from cogen.train.schedule import RoundPlan, plan_round
from cogen.train.start import require_context, start_factors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cogen.base import Base

RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4)
NUM_STEPS, NUM_TEST_BLOCKS = 8, 4
MAX_RISE_NATS = 0.1


@dataclass(frozen=True)
class RateTrial:
    """One learning rate: the loss of each step, then the loss on other text; infinite where training diverged."""

    learning_rate: float
    step_nats: tuple[float, ...]
    nats_after: float


def stable_trials(trials: Sequence[RateTrial], nats_before: float) -> list[RateTrial]:
    """The trials by rising rate, up to the first that is not stable; the last one is the rate to use.

    A trial is stable if no step's loss is more than MAX_RISE_NATS above the same step at the lowest rate, and the
    loss after training is not more than MAX_RISE_NATS above the best of the lower rates and of the start.

    Args:
        nats_before: the loss on the other text before training.
    """
    ordered = sorted(trials, key=lambda t: t.learning_rate)
    found: list[RateTrial] = []
    best = nats_before
    for trial in ordered:
        rises = [mine - low for mine, low in zip(trial.step_nats, ordered[0].step_nats, strict=False)]
        if not all(rise <= MAX_RISE_NATS for rise in (*rises, trial.nats_after - best)):  # NaN is never <=
            break
        found.append(trial)
        best = min(best, trial.nats_after)
    return found


def range_test(
    base: Base,
    corpora: Mapping[str, str | Path],
    settings: Train,
    *,
    heldout_frac: float = 0.05,
    data: Data | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[float, list[RateTrial]]:
    """Train NUM_STEPS steps at each of RATES without warm-up or decay, from the same start on the same text.

    Args:
        on_step: called with the tokens trained so far over all rates.
    Returns: the loss before training, in nats per token on the blocks after the training blocks; the trials.
    Source: Biderman et al. (arXiv 2405.09673) take the highest stable of 1e-5 to 5e-4.
    """
    require_context(base.info, settings)
    settings = level_settings(settings, RATES[0])
    plan = plan_round(settings, 1, 1)
    mixture = read_mixture(base, corpora, settings, heldout_frac, data)
    tell_losses(mixture.accounts, (data or Data()).max_loss_frac)
    stream = make_stream(mixture, settings, plan.total_blocks)
    after = range(plan.num_blocks, plan.num_blocks + NUM_TEST_BLOCKS)
    probe = [Window(p, 0) for i in after for s in stream.segments(i) if len(p := _predicted(s, base))]
    before = _nats(base, probe)
    trials: list[RateTrial] = []
    for rate in RATES:
        done = len(trials) * plan.num_blocks * settings.sequence_length
        report = None if on_step is None else lambda step, done=done: on_step(done + step.num_tokens)
        trials.append(_try(base, stream, plan, level_settings(settings, rate), probe, report))
    return before, trials


def level_settings(settings: Train, rate: float) -> Train:
    """`settings` with a constant learning rate, for NUM_STEPS steps."""
    tokens = NUM_STEPS * settings.batch_size * settings.sequence_length
    level = {"learning_rate": rate, "warmup_frac": 0.0, "schedule": "cosine", "min_lr_ratio": 1.0}
    return settings.model_copy(
        update={**level, "tokens_per_round": tokens, "annealing": None, "early_stop_patience": 0}
    )


def _try(
    base: Base,
    stream: Stream,
    plan: RoundPlan,
    settings: Train,
    probe: Sequence[Window],
    report: Callable[[Step], None] | None,
) -> RateTrial:
    losses: list[float] = []

    def on_step(step: Step) -> None:
        losses.append(step.loss_nats)
        if report is not None:
            report(step)

    start = start_factors(base.info.modules, settings, base.info.embeddings)
    try:
        factors = train_round(base, start, stream, plan, settings, on_step=on_step).factors
    except TrainingError:
        return RateTrial(settings.learning_rate, (*losses, math.inf), math.inf)
    with attached(base.model, factors):
        return RateTrial(settings.learning_rate, tuple(losses), _nats(base, probe))


def _predicted(segment: NDArray[np.int32], base: Base) -> NDArray[np.int32]:
    """The segment without a BOS at its start, since every window is predicted from BOS anyway."""
    return segment[1:] if segment[0] == leading_id(base.tokenizer) else segment


def _nats(base: Base, windows: Sequence[Window]) -> float:
    return sum_nats(base, windows) / sum(len(w.tokens) for w in windows)
