"""The search with a score that is a formula: known optima, constraints, budget, order, and texts."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from cogen.analysis.proposals import DEFAULT_METHODS, label, propose, start_scale
from cogen.analysis.search import search
from cogen.analysis.trials import Candidate, Constraints, SearchResult, pareto_front
from cogen.errors import MergeError, RankError
from cogen.merge.rule import Rule

BASE = {"grid": 1.2, "clinical": 0.8}
NAMES = ("grid", "clinical", "materials", "education")
SHAPES: dict[str, Callable[[float], float]] = {
    "parabola": lambda u: 2 * u - u**2,
    "long tail": lambda u: u * math.exp(1 - u),
    "log-normal": lambda u: math.exp(-(math.log(u) ** 2) / 1.2),
    "cubic": lambda u: 1.5 * u - 0.5 * u**3,
}


def ratios(candidate: Candidate, ratio: float) -> dict[str, float]:
    return {name: value * ratio for name, value in BASE.items()}


def curve(best: Mapping[str, float], gain: Mapping[str, float], shape: str = "parabola") -> Any:
    """Score by method: 1 at scale 0, 1 - gain at the best scale."""

    def score(candidate: Candidate) -> dict[str, float]:
        name = label(candidate.rule)
        return ratios(candidate, 1 - gain[name] * SHAPES[shape](candidate.rule.scale / best[name]))

    return score


def noise(candidate: Candidate) -> dict[str, float]:
    """Any numbers, the same for the same candidate: nothing to be found, everything to be kept in order."""
    text = repr((candidate.rule, [round(w, 6) for w in candidate.weights]))
    draws = [b / 255 for b in hashlib.sha256(text.encode()).digest()[:3]]
    return {"grid": 1.0 + 0.4 * draws[0], "clinical": 0.7 + 0.2 * draws[1], "general": 0.9 + 0.2 * draws[2]}


def look(score: Any, budget: int, methods: tuple[str, ...] = ("mean",), **options: Any) -> SearchResult:
    names = options.pop("names", NAMES)
    proposals = [propose(m, len(names)) for m in methods]
    return search(proposals, names, options.pop("base", BASE), score, budget=budget, **options)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("best", [0.5, 1.0, 1.33, 1.6, 2.5, 5.0])
def test_the_best_scale_of_a_smooth_curve_is_found_in_seven_trials(shape: str, best: float) -> None:
    """Within 10% of the scale and 1% of the gain. Red: the vertex has its sign turned in `_vertex`."""
    result = look(curve({"mean": best}, {"mean": 0.1}, shape), 7)
    assert result.chosen.rule.scale == pytest.approx(best, rel=0.1)
    assert result.trials[result.choice].mean_ratio <= 0.9 + 0.1 * 0.01


def test_a_true_parabola_needs_three_trials() -> None:
    """The base is the point at scale 0. Red: it is dropped of `_points`."""
    result = look(curve({"mean": 1.6}, {"mean": 0.1}), 3)
    assert [t.candidate.rule.scale for t in result.trials] == [1.131, 2.263, 1.6]


def test_scales_far_outside_the_grid_are_reached() -> None:
    """Red: next_scale gives None at the largest scale."""
    assert look(curve({"mean": 12.0}, {"mean": 0.1}), 7).chosen.rule.scale == pytest.approx(12.0, rel=0.1)
    assert look(curve({"mean": 0.1}, {"mean": 0.1}), 8).chosen.rule.scale == pytest.approx(0.1, rel=0.1)


def test_the_best_method_is_found_and_bad_ones_are_dropped_early() -> None:
    """Red: the worse half survives (sorted in reverse)."""
    best = {"mean": 1.9, "tsv_m": 0.6, "ties:0.5+knots": 1.3, "iso_c": 12.0, "tsv_m+pico": 0.5}
    gain = {"mean": 0.08, "tsv_m": 0.05, "ties:0.5+knots": 0.09, "iso_c": 0.02, "tsv_m+pico": 0.06}
    result = look(curve(best, gain), 18, DEFAULT_METHODS)
    assert label(result.chosen.rule) == "ties:0.5+knots"
    assert result.chosen.rule.scale == pytest.approx(1.3, rel=0.1)
    counts = [sum(label(t.candidate.rule) == m for t in result.trials if t.stage != "weights") for m in best]
    assert counts[3] == 2 and counts[1] == 2, "iso_c and tsv_m get the grid and no more"


def test_a_method_whose_grid_is_off_is_ranked_by_the_vertex_of_its_parabola() -> None:
    """Red: methods are ranked by their best trial: ties lies lower on the grid, mean at its vertex."""
    score = curve({"mean": 1.6, "ties:0.5": 0.5657}, {"mean": 0.1, "ties:0.5": 0.095})
    assert label(look(score, 6, ("mean", "ties:0.5")).chosen.rule) == "mean"


def test_weights_move_to_their_optimum() -> None:
    """Red: a step that helps is not kept."""
    wanted = (0.5, 0.3, 0.2)

    def score(candidate: Candidate) -> dict[str, float]:
        off = sum(math.log(w / t) ** 2 for w, t in zip(candidate.weights, wanted, strict=True))
        return ratios(candidate, 0.9 + 0.02 * (candidate.rule.scale - 1.2) ** 2 + 0.01 * off)

    result = look(score, 40, names=NAMES[:3])
    assert result.chosen.weights == pytest.approx(wanted, rel=0.12)
    assert all(math.fsum(t.candidate.weights) == pytest.approx(1.0) for t in result.trials)
    assert len({t.candidate.rule.scale for t in result.trials if t.stage == "weights"}) == 1


def test_a_sum_keeps_its_weights_as_they_are() -> None:
    """Red: weights of task_arithmetic start at 1/K or are divided by their sum."""
    result = look(curve({"task_arithmetic": 0.4}, {"task_arithmetic": 0.1}), 12, ("task_arithmetic",))
    assert result.trials[0].candidate.weights == (1.0, 1.0, 1.0, 1.0)
    weighed = next(t for t in result.trials if t.stage == "weights")
    assert weighed.candidate.weights == (1.5, 1.0, 1.0, 1.0)


def test_no_domain_may_be_worse_than_the_base() -> None:
    """The mean is best at 1.74; from 1.5 on clinical is worse than the base. Red: standing leaves violation out."""

    def score(candidate: Candidate) -> dict[str, float]:
        s = candidate.rule.scale
        return {"grid": 1.2 * (1 - 0.3 * (s - s**2 / 4)), "clinical": 0.8 * (1 + 0.02 * s * (s - 1.5))}

    result = look(score, 7)
    assert 1.35 <= result.chosen.rule.scale <= 1.5
    assert result.warning is None and result.trials[result.choice].worst_rise <= 0
    free = look(score, 7, constraints=Constraints(max_worst_rise=1.0))
    assert (
        free.chosen.rule.scale == pytest.approx(1.737, rel=0.05) and free.trials[free.choice].worst_domain == "clinical"
    )


def test_general_text_is_a_constraint_but_no_part_of_the_mean() -> None:
    """Red: general text counts as a domain, or its limit is not looked at."""
    base = {**BASE, "general": 1.0}

    def score(candidate: Candidate) -> dict[str, float]:
        s = candidate.rule.scale
        return {**ratios(candidate, 1 - 0.1 * (s - s**2 / 4)), "general": 1.0 + 0.02 * s}

    result = look(score, 8, base=base, general="general")
    chosen = result.trials[result.choice]
    assert 0.9 <= chosen.candidate.rule.scale <= 1.0
    assert chosen.worst_domain in BASE and chosen.general_rise == pytest.approx(0.02 * chosen.candidate.rule.scale)
    s = chosen.candidate.rule.scale
    assert chosen.mean_ratio == pytest.approx(1 - 0.1 * (s - s**2 / 4))


def test_where_every_trial_violates_a_constraint_the_least_bad_is_chosen_and_said() -> None:
    """Red: no warning, or the lowest mean is chosen."""

    def score(candidate: Candidate) -> dict[str, float]:
        s = candidate.rule.scale
        return {"grid": 1.2 - 0.5 / s, "clinical": 0.8 + 0.01 / s}

    result = look(score, 5)
    worst = [t.worst_rise for t in result.trials]
    assert worst[result.choice] == min(worst) > 0
    assert result.warning is not None and f"violates them by {min(worst):.4f}" in result.warning
    assert "the smallest violation of 5 trials" in result.explanation


def test_what_is_not_finite_is_never_chosen_and_becomes_null() -> None:
    """Red: nan is compared as it is."""

    def score(candidate: Candidate) -> dict[str, float]:
        s = candidate.rule.scale
        return ratios(candidate, math.nan if s < 1.2 else 1 - 0.1 * (s - s**2 / 4))

    result = look(score, 6)
    assert result.chosen.rule.scale == pytest.approx(2.0, rel=0.1)
    broken = json.loads(result.file().to_json())["trials"][0]
    assert broken["mean_ratio"] is None and broken["bits_per_byte"] == {"grid": None, "clinical": None}


@pytest.mark.parametrize("budget", range(10, 40, 7))
def test_the_budget_is_kept_and_a_larger_one_only_goes_on(budget: int) -> None:
    """Also: no trial is scored twice, and the same search gives the same file. Red: found is looked up by `is`."""
    base = {**BASE, "general": 1.0}
    calls: list[Candidate] = []

    def score(candidate: Candidate) -> dict[str, float]:
        calls.append(candidate)
        return noise(candidate)

    result = look(score, budget, DEFAULT_METHODS, base=base, general="general")
    assert len(calls) == len(result.trials) == budget
    assert len({(c.rule, tuple(round(w, 6) for w in c.weights)) for c in calls}) == budget
    again = look(noise, budget, DEFAULT_METHODS, base=base, general="general")
    assert again.file().to_json() == result.file().to_json()
    more = look(noise, budget + 5, DEFAULT_METHODS, base=base, general="general")
    assert more.trials[:budget] == result.trials


def test_a_search_ends_by_itself() -> None:
    """Red: steps on the weights go on down to 0.1 per cent."""
    result = look(curve({"mean": 1.6}, {"mean": 0.1}), 10_000)
    assert len(result.trials) < 40 and result.trials[-1].stage == "weights"


def test_the_front_is_that_of_brute_force_and_holds_the_choice() -> None:
    """Red: a trial that is equal in one aim and worse in another stays on the front."""
    result = look(noise, 50, DEFAULT_METHODS, base={**BASE, "general": 1.0}, general="general")
    points = [(t.mean_ratio, t.worst_rise, t.general_rise) for t in result.trials]
    front = []
    for i, (a, b, c) in enumerate(points):
        worse = [(x, y, z) for x, y, z in points if x <= a and y <= b and z <= c and (x < a or y < b or z < c)]
        front += [] if worse else [i]
    assert result.front == tuple(front) and 1 < len(front) < 50
    assert result.choice in front
    assert pareto_front([(1.0, 2.0), (1.0, 1.0), (0.5, 3.0), (1.0, 1.0)]) == (1, 2, 3)


def test_the_explanation_names_the_numbers() -> None:
    """Red: the runner-up is of the chosen method itself."""
    score = curve({"mean": 1.6, "ties:0.5": 0.8}, {"mean": 0.1, "ties:0.5": 0.05})
    assert look(score, 5, ("mean", "ties:0.5")).explanation == (
        "mean at scale 1.6 with equal weights: -10.00% bits per byte against the base in the mean, -0.0800 on its "
        "worst domain clinical; the lowest mean of the 5 of 5 trials that satisfy the constraints, before ties:0.5 at scale "
        "0.5657 with -4.57%."
    )


def test_json_holds_every_trial_and_can_be_read() -> None:
    """Red: the choice is the candidate instead of its index."""
    result = look(noise, 12, ("mean", "ties:0.5"), base={**BASE, "general": 1.0}, general="general")
    values = json.loads(result.file().to_json())
    assert values["format"] == 1 and len(values["trials"]) == 12 and values["names"] == list(NAMES)
    chosen = values["trials"][values["choice"]]
    assert chosen["rule"] == result.chosen.rule.settings() and chosen["weights"] == list(result.chosen.weights)
    assert values["constraints"] == {"max_worst_rise": 0.0, "max_general_rise": 0.02}
    assert values["front"] == list(result.front)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("mean", Rule("mean", 1.6)),
        ("ties:0.3", Rule("ties", 0.8, density=0.3)),
        ("mean+pico", Rule("mean", 0.8, calibrate="pico")),
        ("dare:0.5+pico+knots", Rule("dare", 0.8, "knots", 0.5, "pico")),
        ("tsv_m", Rule("tsv_m", 0.4)),
    ],
)
def test_methods_are_read_and_written_alike(text: str, rule: Rule) -> None:
    """Red: label leaves the density out."""
    assert propose(text, 4) == rule and label(rule) == text


def test_the_first_scale_knows_what_a_method_does_with_many_adapters() -> None:
    """Red: the mean starts at the same scale for any number of adapters."""
    assert start_scale("mean", 16) == pytest.approx(3.2) and start_scale("tsv_m", 16) == pytest.approx(0.2)
    assert start_scale("iso_c", 6) == 12.0
    assert start_scale("mean", 16, is_calibrated=True) == start_scale("ties", 2) == 0.8


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("magic", MergeError, "got 'magic'"),
        ("mean:0.5", MergeError, "a density for ties or dare alone, got one for mean"),
        ("ties:x", MergeError, "a density as in ties:0.5, got 'x'"),
        ("ties:2", MergeError, r"density in \(0, 1\], got 2"),
        ("mean+magic", MergeError, "pico or knots after the +, got 'magic'"),
        ("stack+pico", MergeError, "stack without rank"),
    ],
)
def test_methods_that_mean_nothing(text: str, error: type[MergeError], words: str) -> None:
    """Red: an unknown part is skipped."""
    with pytest.raises(error, match=words.replace("+,", r"\+,")):
        propose(text, 4)
    with pytest.raises(RankError):
        propose("mean", 4, rank=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"names": ("grid",)}, "two or more adapters, each with a name, got 1"),
        ({"names": ("grid", "grid")}, "got a name twice"),
        ({"methods": ()}, "at least one method, got none"),
        ({"budget": 9, "methods": DEFAULT_METHODS}, "at least 10 trials, 2 scales for each of 5 methods, got 9"),
        ({"base": {}}, "a domain among the base's scores, got nothing"),
        ({"general": "web"}, "general text as 'web' among the base's scores, got grid, clinical"),
        ({"base": {"grid": 0.0, "clinical": 1.0}}, r"bits per byte above 0, got 0 \(grid\)"),
        ({"constraints": Constraints(math.nan)}, "numbers as constraints, got nan"),
        ({"base": {"grid": 1.0}}, "scores on grid, got grid, clinical"),
        ({"base": {**BASE, "law": 1.0}}, "scores on grid, clinical, law, got grid, clinical"),
    ],
)
def test_what_cannot_be_searched(options: dict[str, Any], words: str) -> None:
    """Red: the columns of a candidate are not compared with the base's."""
    settings = {"budget": 12, **options}
    with pytest.raises(MergeError, match=words):
        look(curve({"mean": 1.0}, {"mean": 0.1}), **settings)
