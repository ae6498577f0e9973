"""Comparing adapters before a merge: overlap, conflict, shared directions, energy at each rank.

Shapes: `K` adapters, `r_i` the rank of one in a module, `R = sum_i r_i`; nothing is larger than
`(d_out + d_in, R)` or `(K, R, R)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cogen.adapter import Adapter, Factors
from cogen.analysis.adapter_checks import Broken, findings_of, plan_modules, read_parts, spectrum_of
from cogen.analysis.diagnosis import Diagnosis
from cogen.analysis.module_stats import ModuleStats, diagnosis_of, family_of
from cogen.analysis.outliers import Spectrum
from cogen.errors import MergeError
from cogen.merge.core import core_space
from cogen.merge.factored import NULL_LEVEL, Compressed, compress, norm, numerical_rank, stack

if TYPE_CHECKING:
    from torch import Tensor

CHANCE_MARGIN = 1.1
WHOLE = 0.999


def diagnose(
    adapters: Sequence[Adapter], names: Sequence[str], progress: Callable[[str], None] | None = None
) -> Diagnosis:
    """Compare adapters before a merge, in one pass that reads each module once.

    Each update is written as its SVD, delta_i = U_i S_i V_i^T, without null directions. For each pair:

    - output_overlap = |U_i^T U_j|_F^2 / min(r_i, r_j): 1 if one subspace contains the other; random subspaces have
      output_chance = max(r_i, r_j) / d_out. input_*: the same for V and d_in. Means over the modules, weighted
      by |delta_i| |delta_j|.
    - cosine = <delta_i, delta_j> / (|delta_i| |delta_j|), sums over all modules.
    - In the shared space of all K (`core_space`), with x and y the cores of the two:
      meeting_frac = sum |x y| / (|delta_i| |delta_j|), how much they use the same entries, and
      sign_conflict_frac = the part of sum |x y| at entries of opposite sign; unrelated updates have 1/2. So
      cosine = meeting_frac * (1 - 2 sign_conflict_frac).
    - norm_ratio = |delta_first| / |delta_second|, over all modules.

    Overall:

    - num_shared_directions of num_directions: `shared_directions`, summed over the modules;
      shared_energy_frac is the part of sum_i |delta_i|^2 in them.
    - energy_by_rank: the part of sum sigma^2 of the equal-weight mean that remains if every module is cut to that
      rank; rank_for_90, rank_for_99: the lowest rank that keeps 90 % and 99 %.
    - factor_average_error = |mean(s B) mean(A) - mean(delta)| / |mean(delta)|, with scalings s in B; None,
      with a reason, unless all have the same ranks. It depends on the factors: (B G, G^-1 A) is the same update and
      has another error. No other number here depends on that choice.

    A module that an adapter lacks counts as zero. A module that is not finite, or whose shape differs from that of most
    adapters, becomes a finding and is skipped.

    Args:
        adapters: at least two, from `Adapter.open` or in memory.
        names: one for each, all different.
        progress: called with each module's name once it is done.
    Raises:
        MergeError: fewer than two adapters, an adapter without modules, or names that do not fit.
    """
    _check(adapters, names)
    spectra: list[dict[str, Spectrum]] = [{} for _ in adapters]
    broken: Broken = [{} for _ in adapters]
    families: dict[str, ModuleStats] = {}
    for module, users in plan_modules(adapters).items():
        parts = read_parts(adapters, module, users, broken)
        forms = {i: compress(f, None) for i, f in parts.items()}
        for i, form in forms.items():
            spectra[i][module] = spectrum_of(form.singular_values)
        stats, family = _measure(module, parts, forms, len(adapters)), family_of(module)
        families[family] = families[family] + stats if family in families else stats
        if progress is not None:
            progress(module)
    return diagnosis_of(adapters, names, families, findings_of(adapters, names, spectra, broken))


def shared_directions(gram: Tensor, ranks: Sequence[int], dimension: int) -> tuple[Tensor, Tensor, int]:
    """Directions that more than half of the adapters use, by eigenvalues of sum_i U_i U_i^T.

    The eigenvalue lambda of a direction is the sum over the adapters of the squared cosine between it and their
    subspace: 1 if only one adapter has it, K if all have it. It counts as shared if lambda > K / 2.
    Random subspaces share directions too, more so with few adapters: for K random ones of t = r / n the largest
    eigenvalue tends to 1 + (K - 2) t + 2 sqrt((K - 1) t (1 - t)). A direction below 1.1 times that does not count,
    unless all adapters have it.

    Args:
        gram: `(R, R)` of [U_1 ... U_K], float64; has the same eigenvalues other than 0.
        ranks: K ranks, 0 for an adapter without this module.
        dimension: n.
    Returns: eigenvalues `(k,)` and eigenvectors `(R, k)` of the shared directions, and the number of all
        eigenvalues other than 0.
    Source: the edge of the Kesten-McKay law, the spectrum of a sum of random projections.
    """
    import torch

    values, vectors = torch.linalg.eigh(gram)
    count, t = len(ranks), max(ranks) / dimension
    edge = 1 + (count - 2) * t + 2 * math.sqrt((count - 1) * t * (1 - t))
    is_shared = values > min(max(count / 2, CHANCE_MARGIN * edge), WHOLE * count)
    # Bases in float32 are orthonormal to about 1e-6, whatever the dtype of the Gram matrix.
    num_directions = int((values > NULL_LEVEL * values[-1]).sum())
    return values[is_shared], vectors[:, is_shared], num_directions


def factor_average_error(parts: Sequence[Factors]) -> float:
    """|mean(s B) mean(A) - mean(delta)|_F of K updates of one rank, which averages A and B apart.

    Equals |sum_{i<j} (s_i B_i - s_j B_j) (A_i - A_j)| / K^2.
    """
    import torch

    b = torch.stack([f.scaling * f.b for f in parts]).mean(dim=0)
    a = torch.stack([f.a for f in parts]).mean(dim=0)
    return norm(stack([Factors(a, b, 1.0), *parts], [1.0, *[-1.0 / len(parts)] * len(parts)]))


@dataclass(frozen=True)
class _Bases:
    """All non-zero updates of a module: `u (d_out, R)`, `v (d_in, R)`, sigma `(R,)`, and the adapter of each direction."""

    u: Tensor
    v: Tensor
    values: Tensor
    owner: Tensor
    ranks: list[int]


def _bases(forms: Mapping[int, Compressed], count: int) -> _Bases:
    import torch

    ranks = [numerical_rank(forms[i].singular_values) if i in forms else 0 for i in range(count)]
    us = [f.factors.b[:, : ranks[i]] for i, f in forms.items()]
    vs = [f.factors.a[: ranks[i]].T for i, f in forms.items()]
    u, v = torch.cat(us, dim=1), torch.cat(vs, dim=1)
    values = torch.cat([f.singular_values[: ranks[i]] for i, f in forms.items()]).double()
    owner = torch.eye(count, dtype=torch.float64).repeat_interleave(torch.tensor(ranks), dim=0)
    return _Bases(u / u.norm(dim=0), v / v.norm(dim=0), values, owner, ranks)


def _measure(module: str, parts: Mapping[int, Factors], forms: Mapping[int, Compressed], count: int) -> ModuleStats:
    """All statistics of one module, as sums that can be added over modules."""
    import torch

    averaging = _averaging(module, parts, count)
    live = {i: form for i, form in forms.items() if float(form.singular_values[0]) > 0}
    if not live:
        zeros = torch.zeros(7, count, count, dtype=torch.float64)
        return ModuleStats(zeros, zeros[0, 0], zeros[0, 0, :1], averaging)
    d_out, d_in = next(iter(parts.values())).shape
    bases = _bases(live, count)
    gram_out, gram_in = (bases.u.T @ bases.u).double(), (bases.v.T @ bases.v).double()
    energy = bases.owner.T @ bases.values.square()
    weight = energy.sqrt()[:, None] * energy.sqrt()[None, :]
    inner, meeting, mean_values = _cores([f.factors for f in live.values()], list(live), count)
    overlaps = [*_overlaps(gram_out, bases, d_out), *_overlaps(gram_in, bases, d_in)]
    sums = torch.stack([inner, meeting, weight, *(weight * x for x in overlaps)])
    shared, vectors, num_directions = shared_directions(gram_out, bases.ranks, d_out)
    shared_energy = float((shared * (vectors * bases.values[:, None]).square().sum(dim=0)).sum())
    return ModuleStats(sums, energy, mean_values.square(), averaging, num_directions, len(shared), shared_energy)


def _overlaps(gram: Tensor, bases: _Bases, dimension: int) -> tuple[Tensor, Tensor]:
    """Overlap of every pair of subspaces, and the overlap of random ones, `(K, K)` each."""
    ranks = bases.owner.sum(dim=0)
    smaller = ranks[:, None].minimum(ranks[None, :]).clamp_min(1)
    chance = ranks[:, None].maximum(ranks[None, :]) / dimension
    return (bases.owner.T @ gram.square() @ bases.owner) / smaller, chance


def _cores(live: Sequence[Factors], places: Sequence[int], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """sum x y and sum |x y| of every pair in the shared space, `(K, K)` each; sigma of the mean over all K."""
    import torch

    cores = core_space(live).cores
    values = torch.linalg.svdvals(cores.sum(dim=0) / count)
    flat = cores.flatten(1)
    inner, meeting = torch.zeros(2, count, count, dtype=torch.float64)
    at = torch.tensor(list(places))
    inner[at[:, None], at] = (flat @ flat.T).double()
    flat = flat.abs()
    meeting[at[:, None], at] = (flat @ flat.T).double()
    return inner, meeting, values[: numerical_rank(values)].double()


def _averaging(module: str, parts: Mapping[int, Factors], count: int) -> float | str:
    """The squared error of averaging A and B separately, or why it has no value."""
    if len(parts) < count:
        return f"not every adapter has {module}"
    ranks = sorted({f.rank for f in parts.values()})
    if len(ranks) > 1:
        return f"the ranks differ: {' and '.join(map(str, ranks))} in {module}"
    return factor_average_error(list(parts.values())) ** 2


def _check(adapters: Sequence[Adapter], names: Sequence[str]) -> None:
    """Raise MergeError unless there are two adapters or more, none empty, each with a different name."""
    doubled = sorted({name for name in names if list(names).count(name) > 1})
    is_enough = len(adapters) >= 2 and all(a.factors for a in adapters)
    if not is_enough or doubled or len(names) != len(adapters):
        got = f"{doubled[0]!r} twice" if doubled else f"{len(names)} names for {len(adapters)} adapters"
        raise MergeError(
            "cannot diagnose",
            expected="two adapters or more, with modules, each with a different name",
            got=got if is_enough or doubled else f"{len([a for a in adapters if a.factors])} with modules",
            fix="Give them different names, as in first=FOLDER second=FOLDER.",
        )
