"""Factors as arrays of a message: `<module>.a` is `lora_A (r, d_in)`, `<module>.b` is `lora_B (d_out, r)`, float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cogen.adapter import Factors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

SIDES = ("a", "b")


def to_arrays(factors: Mapping[str, Factors], prefix: str = "") -> dict[str, NDArray[np.float32]]:
    """Arrays by name; `prefix` goes before each name."""
    return {f"{prefix}{n}.{side}": getattr(f, side).contiguous().numpy() for n, f in factors.items() for side in SIDES}


def to_factors(arrays: Mapping[str, NDArray[Any]], scaling: float, prefix: str = "") -> dict[str, Factors]:
    """The inverse of `to_arrays`, as copies that may be trained; arrays with another prefix are ignored."""
    import torch

    mine = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
    names = sorted({key.rpartition(".")[0] for key in mine})

    def copied(name: str) -> Tensor:
        return torch.from_numpy(mine[name].copy())

    return {n: Factors(copied(f"{n}.a"), copied(f"{n}.b"), scaling) for n in names}


def num_bytes(factors: Mapping[str, Factors]) -> int:
    """Of the arrays of `factors`."""
    return sum(f.a.nbytes + f.b.nbytes for f in factors.values())


def reply_shapes(modules: Mapping[str, tuple[int, int]], rank: int) -> dict[str, tuple[int, int]]:
    """Shapes of the arrays of a train reply, by name.

    Args:
        modules: the adapted ones, name to `(d_out, d_in)`.
        rank: LoRA rank of the domain; a module of lower rank is cut to it.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for name, (d_out, d_in) in modules.items():
        mine = min(rank, d_out, d_in)
        shapes[f"{name}.a"], shapes[f"{name}.b"] = (mine, d_in), (d_out, mine)
    return shapes
