"""The factors of one module, and the digest of many."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


FLOAT32_MAX = (2.0 - 2.0**-23) * 2.0**127


@dataclass(frozen=True, slots=True)
class Layout:
    """Shape and rank of a module's factors, known without reading them."""

    d_out: int
    d_in: int
    rank: int

    @property
    def shape(self) -> tuple[int, int]:
        """`(d_out, d_in)` of the module."""
        return self.d_out, self.d_in


@dataclass(frozen=True)
class Gram:
    """The second moment of a layer's input over an expert's text: E[x x^T] ~ C^T C + ridge * I.

    Args:
        directions: C `(s, d_in)`, the strongest s directions.
        ridge: the mean second moment in each of the other directions, above 0.
    """

    directions: Tensor
    ridge: float


@dataclass(frozen=True)
class Factors:
    """One module's LoRA factors: `a (r, d_in)`, `b (d_out, r)`, float32 unless a test asks for float64.

    For LoRA on an embedding, d_in is the size of the vocabulary, and delta_W is the transpose of the change of the
    embedding matrix. `gram` is set only for merge methods that need it.
    """

    a: Tensor
    b: Tensor
    scaling: float
    gram: Gram | None = None

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """`(d_out, d_in)` of the module."""
        return int(self.b.shape[0]), int(self.a.shape[1])

    @property
    def layout(self) -> Layout:
        return Layout(*self.shape, self.rank)

    def delta(self) -> Tensor:
        """`delta_W (d_out, d_in)`; for tests and single modules, never for a whole model."""
        return self.scaling * (self.b @ self.a)


def is_finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or infinite; ten times as fast as `isfinite().all()`."""
    return math.isfinite(largest_entry(tensor))


def largest_entry(tensor: Tensor) -> float:
    """The largest absolute value; NaN where an entry is NaN, 0 for an empty tensor."""
    low, high = map(float, tensor.aminmax()) if tensor.numel() else (0.0, 0.0)
    return max(-low, high) if low <= high else math.nan


def overflows(a: Tensor, b: Tensor, scaling: float) -> bool:
    """Whether B @ A, scaled or not, has an entry that float32 cannot hold; the product is formed only where it may."""
    scale = max(1.0, abs(scaling))
    if scale * len(a) * largest_entry(a) * largest_entry(b) <= FLOAT32_MAX:
        return False
    return not scale * largest_entry(b.double() @ a.double()) <= FLOAT32_MAX


def layout_of(factors: Mapping[str, Factors]) -> dict[str, Layout]:
    """Shape and rank by module; of factors on disk, without reading them."""
    stored: dict[str, Layout] | None = getattr(factors, "layout", None)
    return stored if stored is not None else {name: f.layout for name, f in factors.items()}


def factor_digest(factors: Mapping[str, Factors]) -> str:
    """sha256 of all factors by module name; it does not depend on how they are stored."""
    digest = hashlib.sha256()
    for name in sorted(factors):
        f = factors[name]
        scaling = f.scaling * f.rank / f.rank  # as it comes back from a file, which holds alpha = scaling * rank
        digest.update(f"{name} {tuple(f.a.shape)} {tuple(f.b.shape)} {scaling!r}\n".encode())
        for tensor in (f.a, f.b):
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
