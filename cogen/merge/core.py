"""Core space: small matrices in shared bases, where elementwise rules have one meaning.

Elementwise rules on A and B depend on the basis that training happened to choose; on
delta_W they cost a (d_out, d_in) matrix. Here they act on `cores (K, p, q)`, `p, q <= sum_i r_i`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cogen.adapter import Factors
from cogen.merge.factored import compress, largest_signs, null_level, numerical_rank

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CoreSpace:
    """K updates in shared orthonormal bases: `delta_i = left @ cores[i] @ right`.

    Args:
        left: `(d_out, p)`, orthonormal columns.
        cores: `(K, p, q)`.
        right: `(q, d_in)`, orthonormal rows.
    """

    left: Tensor
    cores: Tensor
    right: Tensor


def core_space(parts: Sequence[Factors]) -> CoreSpace:
    """Express updates in bases that all of them share, without loss but rounding.

    Each part is brought to its SVD, delta_i = U_i S_i V_i^T. The left basis is that of
    [U_1 S_1 ... U_K S_K], the right one that of [V_1 S_1 ... V_K S_K]: the eigenvectors of
    sum_i delta_i delta_i^T and of sum_i delta_i^T delta_i, in falling order. These sums know neither
    the factors behind delta_i nor the order of the parts. Where an eigenvalue is
    repeated, any basis of its eigenvectors is as good, and elementwise rules depend on the choice.

    Args:
        parts: K updates of one shape; ranks and scalings may differ.
    Returns: null directions dropped, p and q at least 1; entries at rounding level are exactly 0.
    Source: Core Space (arXiv 2509.17786), with bases scaled by sigma instead of by the factors.
    """
    import torch

    balanced = [compress(f, None).factors for f in parts]
    # A balanced factor has norms sqrt(sigma); once more by them gives U_i S_i and V_i S_i.
    left = _basis([f.b * f.b.norm(dim=0) for f in balanced])
    right = _basis([f.a.T * f.a.norm(dim=1) for f in balanced])
    cores = torch.stack([(left.T @ f.b) @ (f.a @ right) for f in balanced])
    floor = null_level(cores) * cores.abs().amax(dim=(1, 2), keepdim=True)
    return CoreSpace(left=left, cores=torch.where(cores.abs() > floor, cores, 0), right=right.T)


def from_core(space: CoreSpace, core: Tensor) -> Factors:
    """The update `left @ core @ right` as factors of scaling 1 and rank min(p, q).

    Args:
        core: `(p, q)`, whatever a rule made of `space.cores`.
    """
    if core.shape[0] < core.shape[1]:
        return Factors(a=core @ space.right, b=space.left, scaling=1.0)
    return Factors(a=space.right, b=space.left @ core, scaling=1.0)


def _basis(columns: Sequence[Tensor]) -> Tensor:
    """Left singular vectors of the columns side by side, null ones dropped; QR first, as in `compress`."""
    import torch

    q, r = torch.linalg.qr(torch.cat(list(columns), dim=1))
    u, values, _ = torch.linalg.svd(r, full_matrices=False)
    basis = q @ u[:, : numerical_rank(values)]
    signed: Tensor = basis * largest_signs(basis)
    return signed
