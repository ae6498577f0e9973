"""How much an adapter remembers of canaries: it is trained on the planted text as the audited adapter was on its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cogen.adapter import Factors
from cogen.audit.canaries import REPEATS, CanarySet, plant
from cogen.audit.intervals import wilson
from cogen.audit.record import MAX_FALSE_POSITIVE_FRAC, CanaryFigures
from cogen.audit.scores import score_continuations
from cogen.audit.targets import Training
from cogen.data.pack import Stream
from cogen.evaluate.continuation import Continuation
from cogen.train.loop import Step, train_round
from cogen.train.lora import attached
from cogen.train.schedule import plan_round
from cogen.train.start import start_factors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cogen.base import Base


def audit_canaries(
    base: Base,
    training: Training,
    canaries: CanarySet,
    domain: str,
    *,
    seed: int = 0,
    on_step: Callable[[Step], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[CanaryFigures]:
    """Plant the canaries, train an adapter on them, and measure what it remembers.

    Args:
        on_step: called after each step of training.
        progress: called with the tokens scored, after each batch.
    Raises:
        ConfigError: the canaries would take more than a fifth of the text.
    """
    stream = plant(training, canaries.planted, seed)
    return canary_figures(base, train_with(base, training, stream, on_step), canaries, domain, progress)


def train_with(
    base: Base, training: Training, stream: Stream, on_step: Callable[[Step], None] | None = None
) -> dict[str, Factors]:
    """The factors of an adapter that is trained on `stream` as the audited one was on its text."""
    settings = training.settings
    start = start_factors(base.info.modules, settings, base.info.embeddings)
    return train_round(base, start, stream, plan_round(settings, 1, 1), settings, on_step=on_step).factors


def canary_figures(
    base: Base,
    factors: Mapping[str, Factors],
    canaries: CanarySet,
    domain: str,
    progress: Callable[[int], None] | None = None,
) -> list[CanaryFigures]:
    """Exposure and detection of the canaries by how often they were planted.

    exposure = log2(alternatives + 1) - log2(rank of the secret's likelihood among its alternatives).

    Source: Carlini et al., The Secret Sharer (arXiv 1802.08232).
    """
    planted = [c.text for c in canaries.planted]
    before, before_other = (_nats(base, texts, progress) for texts in (planted, canaries.unplanted))
    with attached(base.model, factors):
        after, after_other = (_nats(base, texts, progress) for texts in (planted, canaries.unplanted))
        others = [_nats(base, texts, progress) for texts in canaries.alternatives]
    ranks = [1 + int((other < own).sum()) for own, other in zip(after, others, strict=True)]
    ratios = before_other - after_other
    allowed = int(MAX_FALSE_POSITIVE_FRAC * len(ratios))
    is_found = (before - after) > np.sort(ratios)[::-1][allowed]
    return [_figures(canaries, domain, repeats, ranks, is_found) for repeats in REPEATS if _which(canaries, repeats)]


def _which(canaries: CanarySet, repeats: int) -> list[int]:
    return [i for i, c in enumerate(canaries.planted) if c.repeats == repeats]


def _figures(
    canaries: CanarySet, domain: str, repeats: int, ranks: Sequence[int], is_found: NDArray[np.bool_]
) -> CanaryFigures:
    which, num = _which(canaries, repeats), len(canaries.alternatives[0])
    return CanaryFigures(
        domain=domain,
        repeats=repeats,
        num_canaries=len(which),
        num_first=sum(ranks[i] == 1 for i in which),
        num_alternatives=num,
        mean_exposure_bits=float(np.mean([math.log2((num + 1) / ranks[i]) for i in which])),
        num_unplanted=len(canaries.unplanted),
        true_positive_frac=wilson(int(is_found[which].sum()), len(which)),
    )


def _nats(base: Base, texts: Sequence[Continuation], progress: Callable[[int], None] | None) -> NDArray[np.float64]:
    """-ln p of each secret after its prefix."""
    return np.array([float(found.nats.sum()) for found in score_continuations(base, texts, progress)])
