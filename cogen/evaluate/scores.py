"""Scores other than bits per byte: probes, questions, and tasks of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cogen.records import Count, Name


@dataclass(frozen=True)
class ProbeScore:
    """One model on one domain's multiple-choice probes.

    Args:
        accuracy_frac: the choice with the highest log-likelihood per byte counts; `low_frac` and `high_frac` bound the
            95% interval.
        sum_accuracy_frac: the choice with the highest sum of log-likelihoods counts.
        chance_frac: the accuracy of guessing.
        calibration_error_frac: expected calibration error of the softmax over the sums.
    """

    model: Name
    domain: Name
    num_probes: Count
    accuracy_frac: float
    low_frac: float
    high_frac: float
    sum_accuracy_frac: float
    chance_frac: float
    calibration_error_frac: float


@dataclass(frozen=True)
class QuestionScore:
    """One model's replies to one domain's questions; a fraction is None without questions of its kind.

    Args:
        right_frac: fraction of the answerable questions; `right_frac + abstained_frac + wrong_frac = 1`.
        made_up_frac: fraction of the unanswerable questions whose reply does not abstain.
        confidence_frac: mean probability of the tokens of replies that do not abstain.
        overconfidence_frac: `confidence_frac` minus the fraction of these replies that is right.
    """

    model: Name
    domain: Name
    num_answerable: Count
    num_unanswerable: Count
    right_frac: float | None
    abstained_frac: float | None
    wrong_frac: float | None
    made_up_frac: float | None
    confidence_frac: float | None
    overconfidence_frac: float | None


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task of lm-evaluation-harness; `stderr` is None where the harness gives none."""

    model: Name
    task: Name
    metric: Name
    value: float
    stderr: float | None
    num_samples: Count


@dataclass(frozen=True)
class RoutingScore:
    """Where the gate of a routed model sends the held-out windows of one domain.

    Args:
        num_windows: by who was chosen: an expert, or `common`.
        chance_frac: how sure the gate was, on average.
    """

    model: Name
    domain: Name
    num_windows: Mapping[str, Count]
    chance_frac: float


def chosen_names(scores: Sequence[RoutingScore]) -> list[str]:
    """Who was chosen for any window: domains in the order of the scores, then others, the common adapter among them."""
    found = list(dict.fromkeys(name for score in scores for name in score.num_windows))
    known = [name for name in dict.fromkeys(score.domain for score in scores) if name in found]
    return [*known, *(name for name in found if name not in known)]
