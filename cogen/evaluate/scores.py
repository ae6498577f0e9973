"""Scores beside bits per byte: probes, questions, tasks of lm-evaluation-harness; and reading them back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from cogen.errors import RunError


@dataclass(frozen=True)
class ProbeScore:
    """One model on one domain's multiple-choice probes.

    Args:
        accuracy_frac: by log-likelihood per byte of the choice; `low` and `high` bound its 95% interval.
        sum_accuracy_frac: by the plain sum of log-likelihoods.
        chance_frac: what guessing would reach.
        calibration_error_frac: expected calibration error of the softmax over the sums.
    """

    model: str
    domain: str
    num_probes: int
    accuracy_frac: float
    low_frac: float
    high_frac: float
    sum_accuracy_frac: float
    chance_frac: float
    calibration_error_frac: float


@dataclass(frozen=True)
class QuestionScore:
    """One model's replies to one domain's questions; None where there was no question of the kind.

    Args:
        right_frac: of the answerable; with `abstained_frac` and `wrong_frac` it adds up to 1.
        made_up_frac: of the unanswerable, replies that do not abstain.
        confidence_frac: mean probability of the tokens of replies that do not abstain.
        overconfidence_frac: that, less the fraction of these replies that is right.
    """

    model: str
    domain: str
    num_answerable: int
    num_unanswerable: int
    right_frac: float | None
    abstained_frac: float | None
    wrong_frac: float | None
    made_up_frac: float | None
    confidence_frac: float | None
    overconfidence_frac: float | None


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task of lm-evaluation-harness; `stderr` is None where the harness has none."""

    model: str
    task: str
    metric: str
    value: float
    stderr: float | None
    num_samples: int


Score = TypeVar("Score", ProbeScore, QuestionScore, TaskScore)


def read_scores(kind: type[Score], rows: object, what: str, where: str) -> tuple[Score, ...]:
    """The rows of one part of an `evaluation.json`; a part that is absent has none.

    Raises:
        RunError: a field missing, unknown or of another type, or a score named twice.
    """
    if rows is None:
        return ()
    if not isinstance(rows, list):
        raise malformed(f"a list of {what}", type(rows).__name__, where)
    found = tuple(_read_score(kind, row, f"{where}, {what} {i}") for i, row in enumerate(rows, start=1))
    seen: set[tuple[object, ...]] = set()
    for score in found:
        key = tuple(v for v in vars(score).values() if isinstance(v, str))
        if key in seen:
            raise malformed("each model once", f"{' on '.join(map(str, key))} twice", f"{where}, {what}")
        seen.add(key)
    return found


def _read_score(kind: type[Score], row: object, where: str) -> Score:
    names = [field.name for field in fields(kind)]
    if not isinstance(row, Mapping) or set(row) != set(names):
        got = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        raise malformed(f"the fields {', '.join(names)}", got, where)
    for field in fields(kind):
        expected = _complaint(str(field.type), row[field.name])
        if expected:
            raise malformed(f"{field.name} as {expected}", repr(row[field.name]), where)
    values: dict[str, Any] = {n: float(v) if _is_whole_float(n, v) else v for n, v in row.items()}
    return kind(**values)


def _is_whole_float(name: str, value: object) -> bool:
    """A float such as 1.0 that other writers of JSON put as 1."""
    return type(value) is int and not name.startswith("num_")


def _complaint(kind: str, value: Any) -> str:
    """What was expected, if `value` is something else."""
    if kind == "str":
        return "" if isinstance(value, str) and value else "text"
    if kind == "int":
        return "" if type(value) is int and value >= 0 else "a whole number >= 0"
    if kind == "float | None" and value is None:
        return ""
    return "" if type(value) in (int, float) and math.isfinite(value) else "a finite number"


def malformed(expected: str, got: str, where: str) -> RunError:
    """An `evaluation.json` that cannot be read."""
    return RunError(
        "cannot read evaluation",
        expected=expected,
        got=got,
        where=where,
        fix="Write it anew with `cogen evaluate`.",
    )
