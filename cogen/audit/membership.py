"""Membership inference: can a model's own figures tell what it was trained on from text that it was not trained on?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cogen.adapter import Factors
from cogen.audit.intervals import attack_estimates, wilson
from cogen.audit.record import AttackFigures, Membership, ScoreName, Verbatim, VerbatimFigures
from cogen.audit.scores import WindowScores, compressed_bytes, score_excerpts, split_tokens
from cogen.audit.windows import Excerpt
from cogen.train.lora import attached

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cogen.base import Base


@dataclass(frozen=True)
class Scored:
    """One model on trained and on other windows."""

    members: WindowScores
    others: WindowScores


def membership(
    base: Base,
    factors: Mapping[str, Factors],
    members: Sequence[Excerpt],
    others: Sequence[Excerpt],
    *,
    base_scores: Scored | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Membership:
    """How well an adapter's figures tell `members`, windows that it was trained on, from `others`.

    It costs one forward pass over all windows, and another one for the base unless `base_scores` has it.

    Args:
        factors: of the adapter, by module.
        members, others: `member_windows` and `unseen_windows` of the adapter's text.
        base_scores: of the base alone on the same windows (`score_both`), where several adapters are audited.
        seed: of the intervals' resamples.
        progress: called after each batch with the tokens scored.
    Raises:
        FingerprintMismatch: a module is absent or has another shape.

    >>> membership(base, adapter.factors, member_windows(text, 128), unseen_windows(text, 128)).auc  # doctest: +SKIP
    Estimate(value=0.61, low=0.52, high=0.69)
    """
    before = base_scores or score_both(base, {}, members, others, progress)
    after = score_both(base, factors, members, others, progress)
    return membership_figures(base, after, before, members, others, seed)


def score_both(
    base: Base,
    factors: Mapping[str, Factors],
    members: Sequence[Excerpt],
    others: Sequence[Excerpt],
    progress: Callable[[int], None] | None = None,
) -> Scored:
    """Score the base with these factors; without factors, the model as it is now."""
    with attached(base.model, factors) if factors else nullcontext():
        return Scored(score_excerpts(base, members, progress), score_excerpts(base, others, progress))


def membership_figures(
    base: Base,
    model: Scored,
    reference: Scored | None,
    members: Sequence[Excerpt],
    others: Sequence[Excerpt],
    seed: int = 0,
) -> Membership:
    """The figures of a model that was scored already.

    Args:
        reference: the base on the same windows; None where the model is the base, which has no ratio.
    """
    documents = [w.document for w in members], [w.document for w in others]
    trained, unseen = (None, None) if reference is None else (reference.members, reference.others)
    high = _attacks(model.members, trained, compressed_bytes(base, members))
    low = _attacks(model.others, unseen, compressed_bytes(base, others))
    found = [
        AttackFigures(name, *attack_estimates(values.tolist(), low[name].tolist(), *documents, seed))
        for name, values in high.items()
    ]
    counts = len(members), len(set(documents[0])), len(others), len(set(documents[1]))
    return Membership(*counts, sum(w.is_heldout for w in others), tuple(found))


def _attacks(
    scores: WindowScores, reference: WindowScores | None, num_bytes: NDArray[np.float64]
) -> dict[ScoreName, NDArray[np.float64]]:
    """Scores that are higher where the model is surer of a window, the first of them the most telling.

    Source: the ratio is that of Carlini et al. (arXiv 2012.07805) and Mireshghallah et al. (arXiv 2203.03929), zlib that
    of the former, min_k that of Zhang et al. (arXiv 2404.02936).
    """
    found: dict[ScoreName, NDArray[np.float64]] = {} if reference is None else {"ratio": reference.nats - scores.nats}
    return found | {"min_k": scores.min_k, "zlib": -scores.nats / num_bytes, "loss": -scores.nats}


def verbatim_figures(model: Scored, window_tokens: int) -> Verbatim:
    """Exact continuations of trained and of other windows, from the same forward pass."""
    _, continued = split_tokens(window_tokens)
    return Verbatim(*(_verbatim(side.num_matched, continued) for side in (model.members, model.others)))


def _verbatim(num_matched: NDArray[np.int64], continued: int) -> VerbatimFigures:
    num_exact = int((num_matched >= continued).sum())
    return VerbatimFigures(len(num_matched), num_exact, wilson(num_exact, len(num_matched)), float(num_matched.mean()))
