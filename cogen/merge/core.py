"""Shared spaces: small matrices in bases that all updates share, where elementwise rules have one meaning.

Elementwise rules on A and B depend on the basis that training happened to choose; on
delta_W they cost a (d_out, d_in) matrix. Here they act on `cores (K, p, q)`, with `p <= sum_i r_i`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cogen.adapter import Factors
from cogen.merge.factored import NULL_LEVEL, compress, eigenbasis, largest_signs

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SharedSpace:
    """K updates in shared bases: `delta_i = left @ cores[i] @ right`.

    Args:
        left: `(d_out, p)`, orthogonal columns.
        cores: `(K, p, q)`.
        right: `(q, d_in)`, orthonormal rows; None stands for the identity, q = d_in.
    """

    left: Tensor
    cores: Tensor
    right: Tensor | None


def core_space(parts: Sequence[Factors]) -> SharedSpace:
    """Express updates in left and right bases that all of them share, without loss but rounding.

    Each part is brought to its SVD, delta_i = U_i S_i V_i^T. The left basis is that of
    [U_1 S_1 ... U_K S_K], the right one that of [V_1 S_1 ... V_K S_K]: the eigenvectors of
    sum_i delta_i delta_i^T and of sum_i delta_i^T delta_i, in falling order. These sums know neither
    the factors behind delta_i nor the order of the parts. Where an eigenvalue is
    repeated, any basis of its eigenvectors is as good, and elementwise rules depend on the choice.

    Args:
        parts: K updates of one shape; ranks and scalings may differ.
    Returns: both bases orthonormal, null directions dropped, p and q at least 1; entries at rounding
        level are exactly 0.
    Source: Core Space (arXiv 2509.17786), with bases scaled by sigma instead of by the factors.
    """
    import torch

    balanced = [compress(f, None).factors for f in parts]
    # A balanced factor has norms sqrt(sigma); once more by them gives U_i S_i and V_i S_i.
    left, _ = _basis([f.b * f.b.norm(dim=0) for f in balanced])
    right, _ = _basis([f.a.T * f.a.norm(dim=1) for f in balanced])
    cores = torch.stack([(left.T @ f.b) @ (f.a @ right) for f in balanced])
    return SharedSpace(left=left, cores=_without_rounding(cores), right=right.T)


def knots_space(parts: Sequence[Factors]) -> SharedSpace:
    """Express updates in a left basis that all of them share; what differs is on the right.

    [delta_1 ... delta_K] = U S [V_1^T ... V_K^T]; left = U S, cores[i] = V_i^T `(p, d_in)`.

    Args:
        parts: K updates of one shape; ranks and scalings may differ.
    Returns: null directions dropped, p at least 1; left has columns of norm S; right is None.
    Source: KnOTS (arXiv 2410.19735), the concatenation never formed.
    """
    import torch

    balanced = [compress(f, None).factors for f in parts]
    left, values = _basis([f.b * f.b.norm(dim=0) for f in balanced])
    cores = torch.stack([((left.T @ f.b) @ f.a) / values.clamp_min(1e-30)[:, None] for f in balanced])
    return SharedSpace(left=left * values, cores=_without_rounding(cores), right=None)


def shared_outputs(parts: Sequence[Factors]) -> tuple[Tensor, Tensor]:
    """Left singular vectors `(d_out, p)` and values `(p,)` of [delta_1 ... delta_K], null ones dropped.

    Args:
        parts: K updates of one shape; ranks and scalings may differ.
    """
    return _basis([f.b * f.b.norm(dim=0) for f in (compress(part, None).factors for part in parts)])


def from_core(space: SharedSpace, core: Tensor) -> Factors:
    """The update `left @ core @ right` as factors of scaling 1 and rank min(p, q).

    Args:
        core: `(p, q)`, whatever a rule made of `space.cores`.
    """
    if space.right is None:
        return Factors(a=core, b=space.left, scaling=1.0)
    if core.shape[0] < core.shape[1]:
        return Factors(a=core @ space.right, b=space.left, scaling=1.0)
    return Factors(a=space.right, b=space.left @ core, scaling=1.0)


def _without_rounding(cores: Tensor) -> Tensor:
    floor = NULL_LEVEL * cores.abs().amax(dim=(1, 2), keepdim=True)
    return cores.where(cores.abs() > floor, 0)


def _basis(columns: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Left singular vectors and values of the columns side by side, null ones dropped."""
    import torch

    basis, values, _ = eigenbasis(torch.cat(list(columns), dim=1))
    return basis * largest_signs(basis), values
