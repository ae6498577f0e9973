"""Sums over modules, and the numbers of a diagnosis that are computed from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from operator import add
from typing import TYPE_CHECKING

from cogen.adapter import Adapter, layout_of
from cogen.analysis.diagnosis import AdapterSummary, Diagnosis, EnergyAtRank, Family, Finding, Pair

if TYPE_CHECKING:
    from torch import Tensor

INNER, MEETING, WEIGHT, OUTPUT, OUTPUT_CHANCE, INPUT, INPUT_CHANCE = range(7)
CANCELLED = 1e-12  # a mean with less of the parts' energy than this is rounding


@dataclass(frozen=True)
class ModuleStats:
    """Sums over one or more modules, which can be added.

    Args:
        sums: `(7, K, K)`: inner products, sum |x y|, |delta_i| |delta_j|, and the last times overlap and chance
            of outputs and of inputs.
        energy: `(K,)`, |delta_i|^2.
        mean_energy: `(n,)`, sigma^2 of the mean over all K, falling in every module.
        averaging: |error|^2 of averaging A and B separately, or why it has no value.
        num_directions, num_shared_directions, shared_energy: see `shared_directions`.
    """

    sums: Tensor
    energy: Tensor
    mean_energy: Tensor
    averaging: float | str
    num_directions: int = 0
    num_shared_directions: int = 0
    shared_energy: float = 0.0
    num_modules: int = 1

    def __add__(self, other: ModuleStats) -> ModuleStats:
        apart = [x.averaging for x in (self, other)]
        reasons = [x for x in apart if isinstance(x, str)]
        return ModuleStats(
            self.sums + other.sums,
            self.energy + other.energy,
            _padded_sum(self.mean_energy, other.mean_energy),
            reasons[0] if reasons else math.fsum(x for x in apart if not isinstance(x, str)),
            self.num_directions + other.num_directions,
            self.num_shared_directions + other.num_shared_directions,
            self.shared_energy + other.shared_energy,
            self.num_modules + other.num_modules,
        )


def diagnosis_of(
    adapters: Sequence[Adapter], names: Sequence[str], families: Mapping[str, ModuleStats], findings: Sequence[Finding]
) -> Diagnosis:
    """The diagnosis from the sums; `cogen.analysis.diagnose.diagnose` explains its numbers.

    Args:
        families: at least one; family name to the sums over its modules.
    """
    whole = reduce(add, families.values())
    norms = whole.energy.sqrt().tolist()
    total = float(whole.energy.sum())
    curve, rank_for_90, rank_for_99 = _energy_by_rank(whole)
    error, reason = _averaging(whole)
    return Diagnosis(
        adapters=tuple(_summary(a, n, x) for a, n, x in zip(adapters, names, norms, strict=True)),
        num_modules=whole.num_modules,
        pairs=tuple(_pair(names, norms, whole.sums, i, j) for i, j in combinations(range(len(names)), 2)),
        families=tuple(_family(name, stats, total) for name, stats in families.items()),
        num_directions=whole.num_directions,
        num_shared_directions=whole.num_shared_directions,
        shared_energy_frac=_ratio(whole.shared_energy, total, 0.0, 1.0),
        energy_by_rank=curve,
        rank_for_90=rank_for_90,
        rank_for_99=rank_for_99,
        factor_average_error=error,
        factor_average_reason=reason,
        findings=tuple(findings),
    )


def family_of(module: str) -> str:
    """`q_proj` of `model.layers.3.self_attn.q_proj`: the last part of the name that is not a number."""
    return next((part for part in reversed(module.split(".")) if not part.isdecimal()), module)


def _summary(adapter: Adapter, name: str, norm: float) -> AdapterSummary:
    ranks = [layout.rank for layout in layout_of(adapter.factors).values()]
    return AdapterSummary(name, max(ranks, default=0), len(ranks), norm)


def _pair(names: Sequence[str], norms: Sequence[float], sums: Tensor, i: int, j: int) -> Pair:
    ratio = norms[i] / norms[j] if norms[j] > 0 else None
    return Pair(names[i], names[j], norm_ratio=ratio, **_relations(sums[:, i, j].tolist(), norms[i] * norms[j]))


def _family(name: str, stats: ModuleStats, total: float) -> Family:
    """All pairs together; norms are those inside the family."""
    sums = stats.sums.triu(diagonal=1)
    norms = stats.energy.sqrt()
    met = (norms[:, None] * norms[None, :])[sums[WEIGHT] > 0]
    return Family(
        name,
        stats.num_modules,
        _ratio(float(stats.energy.sum()), total, 0.0, 1.0) or 0.0,
        num_directions=stats.num_directions,
        num_shared_directions=stats.num_shared_directions,
        **_relations(sums.sum(dim=(1, 2)).tolist(), float(met.sum())),
    )


def _relations(sums: Sequence[float], norms: float) -> dict[str, float | None]:
    """The numbers of a pair, or of pairs summed up; `norms` is |delta_i| |delta_j|."""
    weight = sums[WEIGHT]
    norms = norms if weight > 0 else 0.0  # without a common module there is no cosine, not one of 0
    return {
        "output_overlap": _ratio(sums[OUTPUT], weight, 0.0, 1.0),
        "output_chance": _ratio(sums[OUTPUT_CHANCE], weight, 0.0, 1.0),
        "input_overlap": _ratio(sums[INPUT], weight, 0.0, 1.0),
        "input_chance": _ratio(sums[INPUT_CHANCE], weight, 0.0, 1.0),
        "cosine": _ratio(sums[INNER], norms, -1.0, 1.0),
        "meeting_frac": _ratio(sums[MEETING], norms, 0.0, 1.0),
        "sign_conflict_frac": _ratio(0.5 * (sums[MEETING] - sums[INNER]), sums[MEETING], 0.0, 1.0),
    }


def _ratio(part: float, whole: float, low: float, high: float) -> float | None:
    """part / whole, limited to bounds that only rounding exceeds; None if whole is 0."""
    return min(max(part / whole, low), high) if whole > 0 else None


def _padded_sum(x: Tensor, y: Tensor) -> Tensor:
    longer, shorter = (x, y) if len(x) >= len(y) else (y, x)
    total = longer.clone()
    total[: len(shorter)] += shorter
    return total


def _is_cancelled(whole: ModuleStats) -> bool:
    return not float(whole.mean_energy.sum()) > CANCELLED * float(whole.energy.sum())


def _energy_by_rank(whole: ModuleStats) -> tuple[tuple[EnergyAtRank, ...], int | None, int | None]:
    """The curve at 1, 2, 4 ... and the last rank, and the ranks for 90% and 99%; nothing for a mean of zero."""
    if _is_cancelled(whole):
        return (), None, None
    held = whole.mean_energy.cumsum(dim=0)
    fracs = (held / held[-1]).tolist()
    last = len(fracs)
    curve = [EnergyAtRank(k, fracs[k - 1]) for k in (*(2**i for i in range(last.bit_length()) if 2**i < last), last)]
    first = [next(k for k, frac in enumerate(fracs, start=1) if frac >= share) for share in (0.90, 0.99)]
    return tuple(curve), first[0], first[1]


def _averaging(whole: ModuleStats) -> tuple[float | None, str]:
    """|error| / |mean| over all modules, or why not."""
    if isinstance(whole.averaging, str):
        return None, whole.averaging
    if _is_cancelled(whole):
        return None, "the mean of the updates is zero"
    return math.sqrt(whole.averaging / float(whole.mean_energy.sum())), ""
