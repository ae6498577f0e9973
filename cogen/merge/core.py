"""Shared spaces: small matrices in bases that all updates share, where elementwise rules have one meaning.

Elementwise rules on A and B depend on the basis that training happened to choose; on delta_W they need a
(d_out, d_in) matrix. Here they act on `cores (K, p, q)`, with `p <= sum_i r_i`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from cogen.adapter import Factors
from cogen.merge.factored import (
    NULL_LEVEL,
    compress,
    inverse,
    largest_signs,
    lifted_root,
    numerical_rank,
    right_singular,
)

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
    """Express updates in left and right bases that all of them share, exactly up to rounding.

    The bases are the eigenvectors of sum_i delta_i delta_i^T and of sum_i delta_i^T delta_i, in falling
    order, computed from the inner products of all factors. These sums depend neither on the factors of delta_i nor on
    the order of the parts. For a repeated eigenvalue any basis of its eigenvectors is possible, and elementwise rules
    depend on the choice.

    Args:
        parts: K updates of one shape; ranks and scalings may differ.
    Returns: both bases orthonormal, null directions dropped, p and q at least 1; entries at rounding
        level are exactly 0.
    Source: Core Space (arXiv 2509.17786), with bases scaled by sigma instead of by the factors.
    """
    import torch

    grams = GramStack.of(parts)
    left, _, from_left = grams.outputs()
    right, from_right = grams.inputs()
    cores = torch.stack([(from_left.T @ grams.outer[:, i]) @ (grams.inner[i] @ from_right) for i in grams.blocks])
    cores = _without_rounding(cores)
    return SharedSpace(left=left.to(parts[0].b), cores=cores.to(parts[0].b), right=right.T.to(parts[0].a))


def knots_space(parts: Sequence[Factors]) -> SharedSpace:
    """Express updates in a left basis that all of them share; the differences are on the right.

    [delta_1 ... delta_K] = U S [V_1^T ... V_K^T]; left = U S, cores[i] = V_i^T `(p, d_in)`.

    Args:
        parts: K updates of one shape; ranks and scalings may differ.
    Returns: null directions dropped, p at least 1; left has columns of norm S; right is None.
    Source: KnOTS (arXiv 2410.19735), the concatenation never formed.
    """
    import torch

    grams = GramStack.of(parts)
    left, values, from_left = grams.outputs()
    unscaled = from_left * inverse(values)
    cores = torch.stack([(unscaled.T @ grams.outer[:, i]) @ grams.a[i] for i in grams.blocks])
    return SharedSpace((left * values).to(parts[0].b), _without_rounding(cores).to(parts[0].a), None)


def shared_outputs(parts: Sequence[Factors]) -> tuple[Tensor, Tensor]:
    """Left singular vectors `(d_out, p)` and values `(p,)` of [delta_1 ... delta_K], null ones dropped.

    Args:
        parts: K updates of one shape; ranks and scalings may differ.
    """
    left, values, _ = GramStack.of(parts).outputs()
    return left.to(parts[0].b), values.to(parts[0].b)


def from_core(space: SharedSpace, core: Tensor) -> Factors:
    """The update `left @ core @ right`, sorted and balanced as `compress` gives it, of scaling 1 and rank min(p, q).

    Args:
        core: `(p, q)`, the result of a rule on `space.cores`.
    """
    import torch

    if space.right is None:
        return compress(Factors(a=core, b=space.left, scaling=1.0), None).factors
    small = compress(Factors(a=torch.eye(core.shape[1]).to(core), b=core, scaling=1.0), None).factors
    b = space.left @ small.b
    signs = largest_signs(b)
    return Factors(a=(small.a * signs[:, None]) @ space.right, b=b * signs, scaling=1.0)


def _without_rounding(cores: Tensor) -> Tensor:
    floor = NULL_LEVEL * cores.abs().amax(dim=(1, 2), keepdim=True)
    return cores.where(cores.abs() > floor, 0)


@dataclass(frozen=True)
class GramStack:
    """K updates side by side, `delta_i = b[:, blocks[i]] @ a[blocks[i]]`, and all their inner products; float64.

    Args:
        b: `(d_out, R)`, scaled.
        a: `(R, d_in)`.
        outer: b^T b `(R, R)`.
        inner: a a^T `(R, R)`.
    """

    b: Tensor
    a: Tensor
    outer: Tensor
    inner: Tensor
    blocks: list[slice]

    @classmethod
    def of(cls, parts: Sequence[Factors]) -> GramStack:
        """Of K updates of one shape; ranks and scalings may differ."""
        import torch

        b = torch.cat([f.scaling * f.b.double() for f in parts], dim=1)
        a = torch.cat([f.a.double() for f in parts])
        ends = list(accumulate(f.rank for f in parts))
        blocks = [slice(end - f.rank, end) for end, f in zip(ends, parts, strict=True)]
        return cls(b, a, b.T @ b, a @ a.T, blocks)

    def outputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvectors `(d_out, p)` of sum_i delta_i delta_i^T, roots of its eigenvalues, and x with b x = the vectors.

        With a_i a_i^T = L_i L_i^T, sum_i delta_i delta_i^T = C C^T for C = b diag(L_1 ... L_K).
        """
        return _eigenvectors(self.b, self.outer, self._roots(self.inner))

    def inputs(self) -> tuple[Tensor, Tensor]:
        """Eigenvectors `(d_in, q)` of sum_i delta_i^T delta_i, and x with a^T x = the vectors."""
        vectors, _, x = _eigenvectors(self.a.T, self.inner, self._roots(self.outer))
        return vectors, x

    def _roots(self, gram: Tensor) -> Sequence[Tensor]:
        """`lifted_root` of every block on the diagonal, at once where the ranks are equal."""
        import torch

        squares = [gram[i, i] for i in self.blocks]
        if len({len(square) for square in squares}) == 1:
            return list(lifted_root(torch.stack(squares)))
        return [lifted_root(square) for square in squares]


def _eigenvectors(columns: Tensor, gram: Tensor, roots: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Left singular vectors and values of C = columns @ diag(roots), falling, null ones dropped; x with columns @ x
    = the vectors.
    """

    diagonal = block_diagonal(roots)
    values, w = right_singular(diagonal.T @ gram @ diagonal)
    values = values[: numerical_rank(values)]
    x = (diagonal @ w[:, : len(values)]) * inverse(values)
    return columns @ x, values, x


def block_diagonal(blocks: Sequence[Tensor]) -> Tensor:
    """The blocks `(m_i, n_i)` along the diagonal of one matrix, `(sum m_i, sum n_i)`."""
    import torch

    joined: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return joined
