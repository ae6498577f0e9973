"""What a search keeps: candidates, their trials and constraints, the Pareto front, the choice and its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cogen.analysis.proposals import label
from cogen.errors import MergeError
from cogen.merge.rule import Rule
from cogen.records import Record


@dataclass(frozen=True)
class Candidate:
    """A way to merge: a rule with its scale, and one weight per adapter (sum 1 where the rule normalises)."""

    rule: Rule
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Constraints:
    """How far above the base a choice may lie, in bits per byte.

    Args:
        max_worst_rise: on the domain that fares worst; 0 wants no domain worse than the base.
        max_general_rise: on general text, where it is scored.
    """

    max_worst_rise: float = 0.0
    max_general_rise: float = 0.02


@dataclass(frozen=True)
class Trial:
    """One candidate, scored once.

    Args:
        stage: what it was tried for: "grid", "scale" or "weights".
        bits_per_byte: by domain, and of general text where that is scored.
        mean_ratio: mean over the domains of bits per byte over the base's; what is minimised.
        worst_domain, worst_rise: the domain with the largest bpb - base, and that difference.
        general_rise: the same for general text; None where it is not scored.
        violation: bits per byte by which the worse of the two constraints is violated; 0 where both are satisfied.
    """

    candidate: Candidate
    stage: str
    bits_per_byte: Mapping[str, float]
    mean_ratio: float
    worst_domain: str
    worst_rise: float
    general_rise: float | None
    violation: float

    @property
    def standing(self) -> tuple[float, ...]:
        """The order of trials, lower is better: constraints, then the mean, then the worst domain, then general text."""
        return self.violation, *self.aims

    @property
    def aims(self) -> tuple[float, ...]:
        """The numbers that the Pareto front compares; lower is better."""
        return (self.mean_ratio, self.worst_rise, *(() if self.general_rise is None else (self.general_rise,)))


@dataclass(frozen=True)
class SearchResult:
    """Every trial in order, and the choice among them.

    Args:
        names: of the adapters, in the order of the weights.
        base: bits per byte of the base, by domain and of general text.
        general: the column of general text; None if there is none.
        front: indices of the trials that no other beats in one aim without losing in another.
        choice: index of the chosen trial, which is on the front.
        explanation: the choice, in one sentence.
        warning: set if no trial satisfies the constraints.
    """

    names: tuple[str, ...]
    base: Mapping[str, float]
    general: str | None
    constraints: Constraints
    trials: tuple[Trial, ...]
    front: tuple[int, ...]
    choice: int
    explanation: str
    warning: str | None

    @property
    def chosen(self) -> Candidate:
        """The chosen candidate."""
        return self.trials[self.choice].candidate

    def file(self) -> SearchFile:
        """The search as `search.json`; numbers that are not finite become null."""
        return SearchFile(
            names=self.names,
            base=dict(self.base),
            general=self.general,
            constraints=self.constraints,
            trials=tuple(TrialRow.of(trial) for trial in self.trials),
            front=self.front,
            choice=self.choice,
            explanation=self.explanation,
            warning=self.warning,
        )


@dataclass(frozen=True)
class TrialRow:
    """One trial in `search.json`; `method` is how `cogen search --try` names the rule."""

    stage: str
    method: str
    rule: Mapping[str, Any]
    weights: tuple[float, ...]
    bits_per_byte: Mapping[str, float | None]
    worst_domain: str
    mean_ratio: float | None
    worst_rise: float | None
    general_rise: float | None
    violation: float | None

    @classmethod
    def of(cls, trial: Trial) -> TrialRow:
        """The row of a trial."""
        return cls(
            stage=trial.stage,
            method=label(trial.candidate.rule),
            rule=trial.candidate.rule.settings(),
            weights=trial.candidate.weights,
            bits_per_byte={name: _finite(value) for name, value in trial.bits_per_byte.items()},
            worst_domain=trial.worst_domain,
            mean_ratio=_finite(trial.mean_ratio),
            worst_rise=_finite(trial.worst_rise),
            general_rise=_finite(trial.general_rise),
            violation=_finite(trial.violation),
        )


class SearchFile(Record):
    """`search.json`: every trial in order, and the choice among them."""

    file_name = "search.json"
    fix = "Write it again with `cogen search`."

    format: Literal[1] = 1
    names: tuple[str, ...]
    base: Mapping[str, float]
    general: str | None
    constraints: Constraints
    trials: tuple[TrialRow, ...]
    front: tuple[int, ...]
    choice: int
    explanation: str
    warning: str | None


def score_trial(
    candidate: Candidate,
    stage: str,
    scores: Mapping[str, float],
    base: Mapping[str, float],
    general: str | None,
    constraints: Constraints,
) -> Trial:
    """Compare a candidate's bits per byte with the base's; a value that is not finite counts as infinitely bad.

    Raises:
        MergeError: other columns than the base's.
    """
    if scores.keys() != base.keys():
        got = ", ".join(scores) or "none"
        fix = "Every candidate must be scored on the text that the base was scored on."
        raise MergeError("cannot search", expected=f"scores on {', '.join(base)}", got=got, fix=fix)
    found = {name: float(scores[name]) if math.isfinite(scores[name]) else math.inf for name in base}
    rises = {name: found[name] - base[name] for name in base}
    general_rise = None if general is None else rises.pop(general)
    worst = max(rises, key=lambda name: rises[name])
    over = [rises[worst] - constraints.max_worst_rise]
    over += [] if general_rise is None else [general_rise - constraints.max_general_rise]
    return Trial(
        candidate,
        stage,
        found,
        mean_ratio=math.fsum(found[name] / base[name] for name in rises) / len(rises),
        worst_domain=worst,
        worst_rise=rises[worst],
        general_rise=general_rise,
        violation=max(0.0, *over),
    )


def conclude(
    trials: Sequence[Trial],
    names: Sequence[str],
    base: Mapping[str, float],
    general: str | None,
    constraints: Constraints,
) -> SearchResult:
    """Choose the best trial that satisfies the constraints, or else the one that violates them least, and explain the choice."""
    choice = min(range(len(trials)), key=lambda i: trials[i].standing)
    best = trials[choice]
    warning = None
    if best.violation > 0:
        warning = (
            f"no trial satisfies the constraints (worst domain at most {constraints.max_worst_rise:+g}, general text at most "
            f"{constraints.max_general_rise:+g} bits per byte): the choice is the least bad one and violates them "
            f"by {best.violation:.4f}"
        )
    front = pareto_front([t.aims for t in trials])
    explanation = explain(trials, choice, names)
    return SearchResult(
        tuple(names), dict(base), general, constraints, tuple(trials), front, choice, explanation, warning
    )


def pareto_front(points: Sequence[tuple[float, ...]]) -> tuple[int, ...]:
    """Indices of the points that no other point beats: lower in one number and higher in none."""

    def beats(p: tuple[float, ...], q: tuple[float, ...]) -> bool:
        return p != q and all(x <= y for x, y in zip(p, q, strict=True))

    return tuple(i for i, q in enumerate(points) if not any(beats(p, q) for p in points))


def explain(trials: Sequence[Trial], choice: int, names: Sequence[str]) -> str:
    """One sentence: what was chosen, by how much it beats the base, and what came next."""
    best = trials[choice]
    kept = sum(t.violation == 0 for t in trials)
    how = f"the lowest mean of the {kept}" if best.violation == 0 else "the smallest violation"
    text = (
        f"{label(best.candidate.rule)} at scale {best.candidate.rule.scale:g} with {_shares(best.candidate, names)}: "
        f"{best.mean_ratio - 1:+.2%} bits per byte against the base in the mean, {best.worst_rise:+.4f} on its worst "
        f"domain {best.worst_domain}"
    )
    if best.general_rise is not None:
        text += f", {best.general_rise:+.4f} on general text"
    text += f"; {how} of {len(trials)} trials" + (" that satisfy the constraints" if best.violation == 0 else "")
    others = [t for t in trials if label(t.candidate.rule) != label(best.candidate.rule)]
    if others:
        second = min(others, key=lambda t: t.standing)
        broken = "" if second.violation == 0 else ", which violates a constraint"
        rule = second.candidate.rule
        text += f", before {label(rule)} at scale {rule.scale:g} with {second.mean_ratio - 1:+.2%}{broken}"
    return text + "."


def _shares(candidate: Candidate, names: Sequence[str]) -> str:
    if len(set(candidate.weights)) == 1:
        return "equal weights"
    return "weights " + ", ".join(f"{n} {w:.3g}" for n, w in zip(names, candidate.weights, strict=True))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
