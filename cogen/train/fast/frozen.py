"""Products with a frozen weight, in float32 or in 8-bit integers.

A CPU with VNNI multiplies 8-bit integers three to four times as fast as float32. Activations, and the
gradients that come back, are scaled by row (token) and rounded, weights by output of the product, so
that forward and backward each have a rounded copy. Sums are exact in 32 bits. Nothing that is
trained is rounded. In the forward the `OUTLIERS` inputs that reach furthest stay float32: a few channels of a
language model are many times as large as the rest, and would take all the levels for themselves.

Source: SwitchBack (arXiv 2304.13013) for rounding by row in both directions; LLM.int8()
(arXiv 2208.07339) for outliers. Legend: N tokens, k inputs, n outputs, c outliers.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from cogen.train.fast import kernels

OUTLIERS = 8  # of c = 0, 4, 8, 16 the error of all gradients was 0.19, 0.12, 0.10, 0.09
NARROW = 256  # fewer outputs than this gain little and, as keys and values, lose most


@dataclass(frozen=True)
class Rows:
    """A matrix as 8-bit integers `(N, k)` times a float32 scale by row `(N,)`, and c columns as they are.

    Args:
        values: 0 in the columns that are kept.
        columns: `(c,)`, which those are. kept: `(N, c)`.
    """

    values: Tensor
    scales: Tensor
    columns: Tensor
    kept: Tensor


@dataclass(frozen=True)
class Frozen:
    """A weight `(n, k)` that gets no gradient, and its roundings by output and by input, if there are any."""

    weight: Tensor
    by_output: Rows | None = None
    by_input: Rows | None = None

    @classmethod
    def of(cls, weight: Tensor, *, int8: bool, is_last: bool = False) -> Frozen:
        """A narrow weight is not rounded; that of the last product only for the forward.

        Each rounding takes a quarter of the bytes of a float32 weight. It is made once for as long as the weight
        lives and is not written to: rounds follow rounds, and the base stays.
        """
        exact = weight.detach()
        if not int8 or len(weight) < NARROW:
            return cls(exact)
        version, known = _ROUNDED.get(weight, (-1, None))
        if known is None or version != weight._version or (known.by_input is None) != is_last:
            by_input = None if is_last else round_rows(exact.T.contiguous())
            known = cls(exact, round_rows(exact), by_input)
            _ROUNDED[weight] = (weight._version, known)
        return known

    def forward(self, x: Tensor, rows: Rows | None = None) -> Tensor:
        """x W^T `(N, n)`; `rows` is x rounded, if that is known already."""
        if self.by_output is None:
            return x @ self.weight.T
        rows = rows or round_rows(x, OUTLIERS)
        return _product(rows, self.by_output).addmm_(rows.kept, self.weight.index_select(1, rows.columns).T)

    def backward(self, g: Tensor) -> Tensor:
        """g W `(N, k)`."""
        return g @ self.weight if self.by_input is None else _product(round_rows(g), self.by_input)


_ROUNDED: MutableMapping[Tensor, tuple[int, Frozen]] = WeakTensorKeyDictionary()


def is_int8_fast() -> bool:
    """Whether this CPU has instructions for 8-bit products that this torch makes use of."""
    has_vnni = getattr(torch.cpu, "_is_vnni_supported", lambda: False)()
    return bool(has_vnni) and hasattr(torch, "_int_mm")


def round_rows(x: Tensor, num_kept: int = 0) -> Rows:
    """Each row of `x (N, k)` scaled by its largest magnitude and rounded to nearest.

    Args:
        num_kept: c columns, those of largest magnitude, are kept apart and rounded to 0.
    """
    x = x.detach().contiguous()
    num_kept = min(num_kept, x.shape[1] - 1)
    sizes, keep = torch.empty(x.shape[1]), torch.ones(x.shape[1])
    columns = torch.empty(0, dtype=torch.int64)
    if num_kept > 0:
        kernels.column_sizes(x.numpy(), sizes.numpy())
        columns = sizes.topk(num_kept).indices
        keep[columns] = 0.0
    rows = Rows(torch.empty(x.shape, dtype=torch.int8), torch.empty(len(x)), columns, x.index_select(1, columns))
    kernels.round_rows(x.numpy(), keep.numpy(), rows.values.numpy(), rows.scales.numpy())
    return rows


def _product(x: Rows, weight: Rows) -> Tensor:
    """x W^T, exact but for the rounding of x and W themselves."""
    summed = torch._int_mm(x.values, weight.values.T)
    kernels.unround(summed.numpy(), x.scales.numpy(), weight.scales.numpy())
    return summed.view(torch.float32)
