"""Sums and cuts of low-rank updates that never form a (d_out, d_in) matrix.

Shapes: `a (r, d_in)`, `b (d_out, r)`, `R` = rank of a stack, `n = min(R, d_out, d_in)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cogen.adapter import Factors
from cogen.errors import WeightError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


LOPSIDED = 2.0**16  # of the norms of B and A: rounding errors of a sum grow by its root, to 2e-5 in float32
_TINY = 2.0**-1022  # the least normal number of float64
NULL_LEVEL = 2.0**-17.25  # what counts as 0 relative to 1: eps^(3/4) of float32, 6e-6; learned directions lie far above


@dataclass(frozen=True)
class Compressed:
    """A cut update, and the energy that the cut discards.

    Args:
        factors: balanced and sorted: row j of `a` and column j of `b` have the norm
            sqrt(sigma_j / scaling), sigma falling.
        energy_cut_frac: sum of the discarded sigma^2 over the sum of all; 0 where that is 0.
        singular_values: all `n` of them, falling, including those that were cut.
    """

    factors: Factors
    energy_cut_frac: float
    singular_values: Tensor


def stack(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """The weighted sum of updates, exactly, as one wider pair of factors of scaling 1.

    sum_i w_i delta_i = [w_1 s_1 B_1 ... w_K s_K B_K] [A_1; ...; A_K], rank R = sum_i r_i.

    Args:
        parts: K updates of one shape; ranks and scalings may differ.
        weights: any K finite numbers, taken as they are; parts at 0 are dropped.
    Returns: rank R; rank 1 and all 0 where every weight is 0.
    Source: FLoRA (arXiv 2409.05976).
    """
    import torch

    used = [(f, w) for f, w in zip(parts, weights, strict=True) if w != 0]
    if not used:
        first = parts[0]
        return Factors(a=torch.zeros_like(first.a[:1]), b=torch.zeros_like(first.b[:, :1]), scaling=1.0)
    a = torch.cat([f.a for f, _ in used], dim=0)
    b = torch.cat([(w * f.scaling) * f.b for f, w in used], dim=1)
    return Factors(a=a, b=b, scaling=1.0)


def compress(f: Factors, rank: int | Callable[[Tensor], int] | None, scaling: float = 1.0) -> Compressed:
    """Best approximation of an update at a given rank, from the Gram matrices of its factors in double precision.

    s B A = U S V^T (`gram_svd`); B' = U (S / scaling)^(1/2), A' = (S / scaling)^(1/2) V^T, so that
    scaling * B' A' = delta, and the first k directions are the best cut at k. Cost O((d_out + d_in) R^2),
    nearly all of it matrix products; no direction is formed that is not kept.

    Gram matrices square the condition number: singular values below 1e-7 of the largest are noise, which
    is what single precision leaves of them in any case. `NULL_LEVEL` is far above.

    Args:
        f: any update: wide, tall, R above its dimensions.
        rank: how many directions to keep, at least 1, or a function of the singular values that says so;
            None, or more than there are, keeps all `n`.
        scaling: scaling of the result, above 0.
    Returns: dtype as given; the largest entry of every column of B is positive.
    Source: FlexLoRA (arXiv 2402.11505) for the cut of the sum; Cholesky and eigenvectors of the Gram
        matrices in place of its dense SVD.
    """

    assert scaling > 0
    b, a = _narrow(f.b.double(), f.a.double())
    values, outer, inner = gram_svd(b.T @ b, a @ a.T)
    values = abs(f.scaling) * values
    wanted = rank(values) if callable(rank) else len(values) if rank is None else rank
    assert wanted >= 1
    keep = min(wanted, len(values))
    b = b @ outer[:, :keep]
    sizes = b.norm(dim=0)
    root = (abs(f.scaling) * sizes / scaling).sqrt()
    signs = largest_signs(b)
    a = (inner[:, :keep] * (math.copysign(1.0, f.scaling) * signs * root)).T @ a
    b = b * (signs * inverse(sizes) * root)
    factors = Factors(a=a.to(f.a), b=b.to(f.b), scaling=scaling)
    return Compressed(factors=factors, energy_cut_frac=energy_cut(values, keep), singular_values=values.to(f.b))


def gram_svd(outer: Tensor, inner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U S V^T = B A from the Gram matrices `B^T B` and `A A^T` alone.

    A A^T = L L^T, so that A = L Q^T with orthonormal Q; the eigenvectors W of L^T (B^T B) L are the right
    singular vectors of B L, and B A = (B L W) (Q W)^T.

    Args:
        outer, inner: `(R, R)`, float64.
    Returns: singular values `(R,)`, falling; `x (R, R)` with B x = U S; `y (R, R)` with y^T A = V^T.
    """
    import torch

    lower = lifted_root(inner)
    values, w = right_singular(lower.T @ outer @ lower)
    return values, lower @ w, torch.linalg.solve_triangular(lower.T, w, upper=True)


def right_singular(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values `(k,)` of C, falling, and its right singular vectors `(k, k)`, from C^T C in float64."""
    import torch

    energies, vectors = torch.linalg.eigh(gram)
    return energies.flip(0).clamp_min(0.0).sqrt(), vectors.flip(1)


def _narrow(b: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """The same product over an inner dimension of at most min(d_out, d_in)."""
    import torch

    if len(a) <= min(len(b), a.shape[1]):
        return b, a
    product = b @ a  # no larger than what was given
    return (product, torch.eye(a.shape[1]).to(a)) if a.shape[1] <= len(b) else (torch.eye(len(b)).to(a), product)


def lifted_root(gram: Tensor) -> Tensor:
    """L with L L^T = gram `(..., R, R)`, which may be singular: it is lifted by its own rounding."""
    import torch

    about = torch.finfo(gram.dtype)
    lift = 8 * about.eps * gram.diagonal(dim1=-2, dim2=-1).sum(-1) + about.tiny
    root: Tensor = torch.linalg.cholesky(gram + lift[..., None, None] * torch.eye(gram.shape[-1]).to(gram))
    return root


def inverse(values: Tensor) -> Tensor:
    """1 / x, and 0 where x is 0."""
    return values.reciprocal().where(values > 0, 0.0)


def leading(f: Factors, rank: int) -> tuple[Factors, Factors | None]:
    """The first `rank` directions and the others (None if there are none); their deltas sum to that of f.

    For a sorted update (see `compress`) the first part is the best cut at `rank`.

    Args:
        rank: at least 1.
    Returns: copies, so that training one part does not change the other.
    """
    assert rank >= 1
    head = Factors(a=f.a[:rank].clone(), b=f.b[:, :rank].clone(), scaling=f.scaling)
    if rank >= f.rank:
        return head, None
    return head, Factors(a=f.a[rank:].clone(), b=f.b[:, rank:].clone(), scaling=f.scaling)


def balanced(f: Factors) -> Factors:
    """The same delta, with row j of A and column j of B of about the same norm where they were far apart.

    Directions whose norms differ by up to LOPSIDED stay as they are, so that factors from training do. The rows of
    others are scaled by powers of two, so that the delta is the same to the last bit, unless values leave the range of
    float32. Whatever factors a client chose for its update, (A c, B / c) for any c above 0, sums of several updates then
    have the rounding errors of small numbers alone.

    Args:
        f: finite factors; where one side of a direction is zero, the direction stays as it is.
    """
    import torch

    a, b = f.a.double(), f.b.double()
    norms_a, norms_b = a.norm(dim=1), b.norm(dim=0)
    apart = norms_b.clamp_min(_TINY).log2() - norms_a.clamp_min(_TINY).log2()
    lopsided = (norms_a > 0) & (norms_b > 0) & (apart.abs() > math.log2(LOPSIDED))
    if not bool(lopsided.any()):
        return f
    half = (apart / 2).round().where(lopsided, 0.0)
    scale = torch.exp2(half)
    return Factors((a * scale[:, None]).to(f.a.dtype), (b / scale).to(f.b.dtype), f.scaling)


def cancellation(f: Factors) -> float:
    """sum_j |b_j| |a_j| over |B A|: how much larger the directions are than their sum; 1 or more, inf for a zero sum.

    It does not depend on the scale of single directions. Factors of rank r from training have up to about sqrt(r) of it.
    Rounding errors of a sum with other updates grow in proportion to it.
    """
    a, b = f.a.double(), f.b.double()
    parts = float((a.norm(dim=1) * b.norm(dim=0)).sum())
    if parts == 0.0:
        return 1.0
    whole = math.sqrt(max(float(((b.T @ b) * (a @ a.T)).sum()), 0.0))
    return parts / whole if whole > 0 else math.inf


def revive(f: Factors, rank: int, generator: torch.Generator) -> Factors:
    """Initialise dead directions again, and add such directions up to `rank`; delta stays the same.

    If row j of A and column j of B are both zero, neither gets a gradient. They become a_j ~ U(-1, 1) / sqrt(d_in),
    b_j = 0, as in PEFT's initialisation (Kaiming-uniform, a = sqrt 5).

    Args:
        f: balanced factors, as `compress` gives them.
        rank: the least rank of the result; directions are never removed.
        generator: the only source of randomness; on the CPU.
    """
    import torch

    d_out, d_in = f.shape
    added = max(0, rank - f.rank)
    a = torch.cat([f.a, f.a.new_zeros(added, d_in)], dim=0)
    b = torch.cat([f.b, f.b.new_zeros(d_out, added)], dim=1)
    norms_a, norms_b = a.norm(dim=1), b.norm(dim=0)
    # A balanced direction has norms sqrt(sigma), so the level for sigma goes under a root.
    floor = ((norms_a * norms_b).max() * NULL_LEVEL).sqrt()
    dead = (norms_a <= floor) & (norms_b <= floor)
    fresh = torch.rand(int(dead.sum()), d_in, generator=generator, dtype=torch.float64)
    a[dead] = ((2 * fresh - 1) / math.sqrt(d_in)).to(a)
    b[:, dead] = 0
    return Factors(a=a, b=b, scaling=f.scaling)


def norm(f: Factors) -> float:
    """Frobenius norm of an update: |s| sqrt(trace(B^T B A A^T)), without forming it."""
    return abs(f.scaling) * math.sqrt(max(0.0, inner(f.b.double(), f.a.double(), f.b.double(), f.a.double())))


def inner(b: Tensor, a: Tensor, other_b: Tensor, other_a: Tensor) -> float:
    """<B A, B' A'> = sum of (B^T B') * (A A'^T), elementwise."""
    return float(((b.T @ other_b) * (a @ other_a.T)).sum())


def normalise_weights(weights: Sequence[float], count: int) -> list[float]:
    """The weights over their sum.

    Raises:
        WeightError: not `count` weights, one is negative or not finite, or they sum to 0.
    """
    finite = checked_weights(weights, count)
    total = math.fsum(finite)
    if total <= 0 or min(finite) < 0:
        raise _bad_weights("finite weights >= 0, sum above 0", ", ".join(f"{w:g}" for w in weights))
    return [w / total for w in finite]


def checked_weights(weights: Sequence[float], count: int) -> list[float]:
    """The weights, unchanged.

    Raises:
        WeightError: not `count` weights, one or their sum is not finite, or all are 0.
    """
    if len(weights) != count:
        raise _bad_weights(f"{count} weights", str(len(weights)))
    shown = ", ".join(f"{w:g}" for w in weights)
    if not math.isfinite(sum(map(abs, weights))):
        raise _bad_weights("finite weights with a finite sum", shown)
    if not any(weights):
        raise _bad_weights("a weight other than 0, their sum above 0", shown)
    return [float(w) for w in weights]


def _bad_weights(expected: str, got: str) -> WeightError:
    fix = "Give every adapter a weight of 0 or more, and at least one more than 0."
    return WeightError("cannot weight adapters", expected=expected, got=got, fix=fix)


def energy_cut(singular_values: Tensor, rank: int) -> float:
    """The part of sum sigma^2 that lies beyond the first `rank` values; 0 where the sum is 0."""
    total = energy_of(singular_values)
    return energy_of(singular_values[rank:]) / total if total > 0 else 0.0


def energy_of(singular_values: Tensor) -> float:
    """sum sigma^2, the squared Frobenius norm."""
    return float(singular_values.double().square().sum())


def rank_for_energy(singular_values: Tensor, energy: float) -> int:
    """The fewest leading values that hold the share `energy` of sum sigma^2; at least 1.

    At 1 all values above rounding are kept.
    """
    if energy >= 1.0:
        return numerical_rank(singular_values)
    held = singular_values.double().square().cumsum(dim=0)
    return min(int((held < energy * held[-1]).sum()) + 1, len(singular_values))


def numerical_rank(singular_values: Tensor) -> int:
    """How many singular values are above rounding; at least 1."""
    return max(1, int((singular_values > NULL_LEVEL * singular_values[0]).sum()))


def largest_signs(columns: Tensor) -> Tensor:
    """The sign, +1 or -1, of the largest entry of each column: SVD leaves signs open, and this makes them unique."""
    top = columns.gather(0, columns.abs().argmax(dim=0, keepdim=True))[0]
    return top.new_ones(top.shape).copysign(top)
