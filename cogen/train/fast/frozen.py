"""Products with a frozen weight, in the weight's own precision or in 8-bit integers.

A CPU with VNNI multiplies 8-bit integers four times as fast as float32 and twice as fast as bfloat16.
Activations, and the gradients that come back, are scaled by row (token) and rounded, weights by output of the
product, so that forward and backward each have a rounded copy. Sums are exact in 32 bits. Trained factors are never
rounded. In the forward the `OUTLIERS` largest inputs keep their precision: a few channels of a language model are many
times as large as the others, and would use up all levels. The products of these inputs and of LoRA are one thin
product, added where the sums are scaled back.

Source: SwitchBack (arXiv 2304.13013) for rounding by row in both directions; LLM.int8()
(arXiv 2208.07339) for outliers. Legend: N tokens, k inputs, n outputs, c outliers, r rank.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from cogen.train.fast import kernels
from cogen.train.fast.kernels import array

OUTLIERS = 8  # of c = 0, 4, 8, 16 the error of all gradients was 0.19, 0.12, 0.10, 0.09
NUM_GATHERED = 4
NARROW = 256  # fewer outputs than this gain little and, as keys and values, lose most


@dataclass(frozen=True)
class Rows:
    """A matrix as 8-bit integers `(N, k)` times a float32 scale by row `(N,)`, and c columns as they are.

    Args:
        values: 0 in the columns that keep their precision.
        columns: `(c,)`, the indices of these columns.
        kept: `(N, c)`, their values.
    """

    values: Tensor
    scales: Tensor
    columns: Tensor
    kept: Tensor


@dataclass(frozen=True)
class Frozen:
    """A weight `(n, k)` without gradient, and its roundings by output and by input, if there are any."""

    weight: Tensor
    by_output: Rows | None = None
    by_input: Rows | None = None
    gathered: list[tuple[Tensor, Tensor]] = field(default_factory=list, repr=False, compare=False)
    """The last columns that were used, and the weight at these columns."""

    @classmethod
    def of(cls, weight: Tensor, *, int8: bool, is_last: bool = False) -> Frozen:
        """A narrow weight is not rounded; that of the last product only for the forward.

        Each rounding takes a byte a parameter. It is made once for as long as the weight
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

    def forward(self, x: Tensor, h: Tensor, b: Tensor, rows: Rows | None = None) -> Tensor:
        """x W^T + h b^T `(N, n)`, for h `(N, r)` and b `(n, r)`; `rows` is x rounded, if that is known already."""
        if self.by_output is None:
            return (x @ self.weight.T).addmm_(h, b.T)
        rows = rows or round_rows(x, OUTLIERS)
        more = torch.cat((h, rows.kept), 1) @ torch.cat((b, self.columns(rows)), 1).T
        return _scaled(rows, self.by_output, more)

    def backward(self, g: Tensor, u: Tensor, a: Tensor, more: Tensor | None = None) -> Tensor:
        """g W + u a `(N, k)`, for u `(N, r)` and a `(r, k)`, and `more (N, k)`, which may be overwritten."""
        if self.by_input is None:
            dx = (g @ self.weight).addmm_(u, a)
            return dx if more is None else dx.add_(more)
        return _scaled(round_rows(g), self.by_input, u @ a if more is None else more.addmm_(u, a))

    def columns(self, rows: Rows) -> Tensor:
        """The weight's columns `(n, c)` for those that `rows` keeps: few sets of channels stand out, again and again."""
        for columns, found in self.gathered:
            if torch.equal(columns, rows.columns):
                return found
        made = taken(self.weight, rows.columns)
        self.gathered[:] = [(rows.columns, made), *self.gathered[: NUM_GATHERED - 1]]
        return made


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
        kernels.column_sizes(array(x), array(sizes))
        columns = sizes.topk(num_kept).indices.sort().values
        keep[columns] = 0.0
    rows = Rows(torch.empty(x.shape, dtype=torch.int8), torch.empty(len(x)), columns, taken(x, columns))
    kernels.round_rows(array(x), array(keep), array(rows.values), array(rows.scales))
    return rows


def taken(x: Tensor, columns: Tensor) -> Tensor:
    """The columns `(N, c)` of x."""
    out = x.new_empty(len(x), len(columns))
    kernels.take_columns(array(x), array(columns), array(out))
    return out


def integer_sums(x: Rows, weight: Rows) -> Tensor:
    """The sums of `x` W^T in 32 bits `(N, n)`, before any scale."""
    return torch._int_mm(x.values, weight.values.T)


def _scaled(x: Rows, weight: Rows, more: Tensor) -> Tensor:
    """x W^T + more, in the precision of `more`: exact but for that and the rounding of x and W themselves."""
    summed, out = integer_sums(x, weight), torch.empty_like(more)
    kernels.unround(array(summed), array(x.scales), array(weight.scales), array(more), array(out))
    return out
