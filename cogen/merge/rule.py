"""Merging the updates of one module: the methods by name, their settings, and the cut to a rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cogen.adapter import Factors
from cogen.errors import MergeError, RankError
from cogen.merge.core import core_space, from_core, knots_space
from cogen.merge.dare import dare
from cogen.merge.factored import compress, energy_cut, energy_of, leading, norm, numerical_rank, rank_for_energy, stack
from cogen.merge.iso import iso
from cogen.merge.mean import mean
from cogen.merge.pico import calibrate, restore
from cogen.merge.regmean import regmean
from cogen.merge.ties import ties
from cogen.merge.tsv import tsv

if TYPE_CHECKING:
    from torch import Tensor

SPACES = {"core": core_space, "knots": knots_space}
CALIBRATIONS = ("none", "pico")


@dataclass(frozen=True)
class Rule:
    """How the updates of one module are combined, and what is kept of the result.

    Args:
        method: a key of METHODS. Without a search for the scale, TSV-M kept most on two sets of experts.
        scale: factor on the result; `cogen search` finds its best value.
        space: the basis for ties and dare: "core" (shared on both sides) or "knots" (shared on the left).
        density: the fraction of entries that ties and dare keep, in (0, 1].
        calibrate: "pico" first scales down output directions that many updates share; "none" does not.
        seed: seed of the draws of dare.
        rank: highest rank of the result; None keeps all that is above rounding.
        energy: keep the lowest rank with this share of the sum of sigma^2, in (0, 1]; not with `rank`.
    """

    method: str = "tsv_m"
    scale: float = 1.0
    space: str = "core"
    density: float = 1.0
    calibrate: str = "none"
    seed: int = 0
    rank: int | None = None
    energy: float | None = None

    @property
    def is_normalised(self) -> bool:
        """Whether weights are divided by their sum."""
        return METHODS[self.method].is_normalised

    def settings(self) -> dict[str, Any]:
        """The settings that the result depends on, for the manifest."""
        named = ["method", "scale", *METHODS[self.method].settings]
        named += ["calibrate"] if self.calibrate != "none" else []
        named += [name for name in ("rank", "energy") if getattr(self, name) is not None]
        return {name: getattr(self, name) for name in named}

    def check(self) -> None:
        """Raise MergeError or RankError unless every setting can work."""
        if self.method not in METHODS:
            known = ", ".join(METHODS)
            bare = self.method.removesuffix("_svd")
            fix = f"That is {bare} here." if bare in METHODS else "Choose a known method."
            fix = ELSEWHERE.get(self.method, ELSEWHERE.get(bare, fix))
            raise refused(f"one of {known}", repr(self.method), fix)
        _check_choice("space", self.space, SPACES)
        _check_choice("calibrate", self.calibrate, CALIBRATIONS)
        if not 0 < self.density <= 1:
            raise refused("a density in (0, 1]", f"{self.density:g}", "Give the share of entries to keep.")
        if not math.isfinite(self.scale):
            raise refused("a finite scale", f"{self.scale:g}", "Set it to a number such as 1.0.")
        self._check_cut()

    def _check_cut(self) -> None:
        if self.rank is not None and self.rank < 1:
            fix = "Give a rank of 1 or more, or leave it out to lose nothing."
            raise RankError("cannot merge", expected="a rank of 1 or more", got=str(self.rank), fix=fix)
        if self.energy is not None and not 0 < self.energy <= 1:
            raise refused("an energy in (0, 1]", f"{self.energy:g}", "Give the share to keep, such as 0.99.")
        if self.rank is not None and self.energy is not None:
            raise refused("a rank or an energy", "both", "Set only one of them.")
        if self.method == "stack" and (self.rank is not None or self.energy is not None or self.calibrate != "none"):
            raise refused("stack without rank, energy or calibrate", "one of them", "Use mean, which can be cut.")


@dataclass(frozen=True)
class Combined:
    """One module's result.

    Args:
        whole: the update before the cut.
        factors: the update after the cut, with scaling 1.
        energy_cut_frac: the discarded part of the sum of sigma^2, in [0, 1].
        energy: the sum of sigma^2 before the cut, which is the squared norm of `whole`.
    """

    whole: Factors
    factors: Factors
    energy_cut_frac: float
    energy: float


def combine(parts: Sequence[Factors], weights: Sequence[float], rule: Rule, seed: int = 0) -> Combined:
    """scale * method(delta_1 ... delta_K), and the best cut of it.

    Args:
        parts: K updates of one module; ranks and scalings may differ.
        weights: K weights; normalised already where the method wants that.
        rule: checked. seed: of this module's draws.
    """
    method = METHODS[rule.method]
    ready = calibrate(parts) if rule.calibrate == "pico" else parts
    made = method.run(ready, weights, rule, seed)
    if rule.calibrate == "pico":
        total = math.fsum(weights)
        made = restore(made, parts, [w / total for w in weights] if total > 0 else weights)
    whole = Factors(a=made.a, b=made.b, scaling=made.scaling * rule.scale)
    if rule.method == "stack":
        kept = Factors(a=whole.a, b=whole.b * whole.scaling, scaling=1.0)
        return Combined(whole, kept, 0.0, norm(whole) ** 2)
    return _cut(whole, rule, sort=not method.is_sorted)


def _cut(whole: Factors, rule: Rule, sort: bool) -> Combined:
    def count(values: Tensor) -> int:
        if rule.energy is not None:
            return rank_for_energy(values, rule.energy)
        return numerical_rank(values) if rule.rank is None else rule.rank

    if sort:
        made = compress(whole, count)
        return Combined(whole, made.factors, made.energy_cut_frac, energy_of(made.singular_values))
    values = whole.b.norm(dim=0) * whole.a.norm(dim=1) * abs(whole.scaling)
    kept, _ = leading(Factors(whole.a, whole.b * whole.scaling, 1.0), count(values))
    return Combined(whole, kept, energy_cut(values, kept.rank), energy_of(values))


Method = Callable[[Sequence[Factors], Sequence[float], Rule, int], Factors]


@dataclass(frozen=True)
class Entry:
    """A merge method: its function, the settings it reads, and whether its weights must sum to 1."""

    run: Method
    settings: tuple[str, ...] = ()
    is_normalised: bool = True
    is_sorted: bool = False


def _ties(parts: Sequence[Factors], weights: Sequence[float], rule: Rule, seed: int) -> Factors:
    space = SPACES[rule.space](parts)
    return from_core(space, ties(space.cores, weights, rule.density))


def _dare(parts: Sequence[Factors], weights: Sequence[float], rule: Rule, seed: int) -> Factors:
    import torch

    space = SPACES[rule.space](parts)
    return from_core(space, dare(space.cores, weights, rule.density, torch.Generator().manual_seed(seed)))


METHODS: Mapping[str, Entry] = {
    "mean": Entry(lambda parts, weights, rule, seed: mean(parts, weights)),
    "task_arithmetic": Entry(lambda parts, weights, rule, seed: stack(parts, weights), is_normalised=False),
    "stack": Entry(lambda parts, weights, rule, seed: stack(parts, weights)),
    "ties": Entry(_ties, ("space", "density"), is_sorted=True),
    "dare": Entry(_dare, ("space", "density", "seed"), is_sorted=True),
    "tsv_m": Entry(lambda parts, weights, rule, seed: tsv(parts, weights)),
    "regmean": Entry(lambda parts, weights, rule, seed: regmean(parts, weights)),
    "iso_c": Entry(lambda parts, weights, rule, seed: iso(parts, weights), is_sorted=True),
}

_ON_FACTORS = "It would act on A and B apart, where the result depends on the basis that training chose"
ELSEWHERE: Mapping[str, str] = {
    "linear": f"{_ON_FACTORS}, and the mean of factors is not the mean of updates; use mean.",
    "fedit": f"{_ON_FACTORS}, and the mean of factors is not the mean of updates; use mean.",
    "slerp": f"{_ON_FACTORS}; use mean with a scale.",
    "della": f"{_ON_FACTORS}; use dare.",
    "dare_linear": "Use dare, which acts in the shared space.",
    "dare_ties": "Use dare or ties, which act in the shared space.",
    "magnitude_prune": "Use ties with a density, which trims in the shared space.",
    "cat": "That is stack here.",
    "svd": "That is mean with a rank here.",
    "knots": 'That is ties or dare with space = "knots" here.',
    "core_space": 'That is ties or dare with space = "core" here.',
    "pico": 'That is calibrate = "pico" here, with any method.',
    "tsv": "That is tsv_m here.",
    "iso": "That is iso_c here.",
}


def _check_choice(name: str, value: str, known: Any) -> None:
    if value not in known:
        raise refused(f"{name} to be one of {', '.join(known)}", repr(value), "Choose one of them.")


def refused(expected: str, got: str, fix: str) -> MergeError:
    """The error for a merge with settings that cannot work."""
    return MergeError("cannot merge", expected=expected, got=got, fix=fix)
