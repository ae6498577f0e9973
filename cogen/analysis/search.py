"""The search for method, scale and weights of a merge.

It sees only bits per byte: `score` may merge and evaluate in this process, or send the candidate to clients that
return nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace

from cogen.analysis.scales import next_scale, promise, tidy
from cogen.analysis.trials import Candidate, Constraints, SearchResult, Trial, conclude, score_trial
from cogen.errors import MergeError
from cogen.merge.rule import Rule

GRID = (2**-0.5, 2**0.5)
MAX_SCALE_STEPS = 5
WEIGHT_STEP, LEAST_WEIGHT_STEP = 1.5, 1.1

Course = Generator[tuple[str, Candidate], Trial, None]


def search(
    proposals: Sequence[Rule],
    names: Sequence[str],
    base: Mapping[str, float],
    score: Callable[[Candidate], Mapping[str, float]],
    *,
    budget: int,
    general: str | None = None,
    constraints: Constraints | None = None,
) -> SearchResult:
    """Find the candidate that satisfies the constraints and has the lowest mean over domains of bpb / bpb base.

    1. Try every method at two scales, a factor 2 apart, around the scale of its proposal.
    2. Give the better half of the methods one more scale each, and repeat; give the last method up to five more,
       until its best scale moves by less than 5 per cent.
    3. From the best so far, change one weight at a time by 1.5 or 1/1.5 and keep what helps; then use smaller steps.

    The order of trials does not depend on the budget: a larger budget only continues further. No candidate is scored
    twice. Bits per byte as a function of the scale are close to a parabola, and every method has the value of the base
    at scale 0, so two scales already show where to look (see `next_scale`).

    Args:
        proposals: methods, each with its settings and first scale (`propose`).
        names: names of the K adapters.
        base: bits per byte of the base by column: the domains, and general text.
        score: gives the same columns for a candidate; called at most `budget` times.
        general: the column of general text, which has a constraint but is not part of the mean.
    Raises:
        MergeError: fewer than two adapters, no method, a budget below stage 1, columns that differ.
    """
    check_search(proposals, names, budget)
    constraints = Constraints() if constraints is None else constraints
    _check_base(base, general, constraints)
    found: dict[Candidate, Trial] = {}
    course = _course(proposals, len(names))
    stage, candidate = next(course)
    while True:
        key = _key(candidate)
        if key not in found:
            if len(found) == budget:
                break
            found[key] = score_trial(candidate, stage, score(candidate), base, general, constraints)
        try:
            stage, candidate = course.send(found[key])
        except StopIteration:
            break
    return conclude(list(found.values()), names, base, general, constraints)


def check_search(proposals: Sequence[Rule], names: Sequence[str], budget: int) -> None:
    """Raise MergeError unless there is something to search and the budget covers the first stage."""
    if len(names) < 2 or len(set(names)) < len(names):
        doubled = len(set(names)) < len(names)
        got = "a name twice" if doubled else str(len(names))
        fix = "Give them different names." if doubled else "One adapter needs no merge."
        raise MergeError("cannot search", expected="two or more adapters, each with a name", got=got, fix=fix)
    if not proposals:
        raise MergeError("cannot search", expected="at least one method", got="none", fix="Name some.")
    for rule in proposals:
        rule.check()
        if rule.scale <= 0:
            fix = "The search goes up and down from there by factors."
            raise MergeError("cannot search", expected="a scale above 0", got=f"{rule.scale:g}", fix=fix)
    least = len(GRID) * len(proposals)
    if budget < least:
        raise MergeError(
            "cannot search",
            expected=f"a budget of at least {least} trials, {len(GRID)} scales for each of {len(proposals)} methods",
            got=str(budget),
            fix="Raise the budget or name fewer methods.",
        )


def _check_base(base: Mapping[str, float], general: str | None, constraints: Constraints) -> None:
    domains = [name for name in base if name != general]
    if not domains or (general is not None and general not in base):
        expected = "a domain" if not domains else f"general text as {general!r}"
        got = ", ".join(base) or "nothing"
        raise MergeError("cannot search", expected=f"{expected} among the base's scores", got=got, fix="Score it.")
    for name, value in base.items():
        if not (math.isfinite(value) and value > 0):
            fix = "Check the base and the text."
            got = f"{value:g}"
            raise MergeError("cannot search", expected="bits per byte above 0", got=got, where=name, fix=fix)
    if math.isnan(constraints.max_worst_rise) or math.isnan(constraints.max_general_rise):
        raise MergeError("cannot search", expected="numbers as constraints", got="nan", fix="Set them to 0 or more.")


def _course(proposals: Sequence[Rule], count: int) -> Course:
    """Yield each stage and candidate, and receive its trial; see `search`."""
    methods: list[list[Trial]] = []
    for rule in proposals:
        tried: list[Trial] = []
        for factor in GRID:
            candidate = Candidate(replace(rule, scale=tidy(rule.scale * factor)), _equal(rule, count))
            tried.append((yield "grid", candidate))
        methods.append(tried)
    alive = methods
    while len(alive) > 1:
        alive = sorted(alive, key=promise)[: (len(alive) + 1) // 2]
        for tried in alive:
            yield from _rescale(tried, 1)
    yield from _rescale(alive[0], MAX_SCALE_STEPS)
    yield from _reweigh(min((t for tried in methods for t in tried), key=lambda t: t.standing))


def _rescale(tried: list[Trial], num_steps: int) -> Course:
    """Try up to `num_steps` further scales of one method, and add them to `tried`."""
    for _ in range(num_steps):
        scale = next_scale(tried)
        if scale is None:
            return
        first = tried[0].candidate
        tried.append((yield "scale", replace(first, rule=replace(first.rule, scale=scale))))


def _reweigh(best: Trial) -> Course:
    """Change one weight at a time; use smaller steps once no step of a size helps."""
    step = WEIGHT_STEP
    while step > LEAST_WEIGHT_STEP:
        before = best
        for which in range(len(best.candidate.weights)):
            for factor in (step, 1.0 / step):
                trial = yield "weights", _reweighted(best.candidate, which, factor)
                if trial.standing < best.standing:
                    best = trial
                    break
        if best is before:
            step = math.sqrt(step)


def _equal(rule: Rule, count: int) -> tuple[float, ...]:
    return (1.0 / count if rule.is_normalised else 1.0,) * count


def _reweighted(candidate: Candidate, which: int, factor: float) -> Candidate:
    weights = [w * factor if i == which else w for i, w in enumerate(candidate.weights)]
    total = math.fsum(weights) if candidate.rule.is_normalised else 1.0
    return replace(candidate, weights=tuple(w / total for w in weights))


def _key(candidate: Candidate) -> Candidate:
    """A key that is equal for candidates that differ only by rounding."""
    return replace(candidate, weights=tuple(round(w, 9) for w in candidate.weights))
