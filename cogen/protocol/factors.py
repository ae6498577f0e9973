"""Factors as arrays of a message: `<module>.a` is `lora_A (r, d_in)`, `<module>.b` is `lora_B (d_out, r)`.

On the wire they are float32, or int8 with one scale a direction: `<module>.a_scale (r,)` and `<module>.b_scale (r,)`. A scale
is a power of two, so `int8 * scale` is exact, and rounding what was rounded changes nothing: every domain, the server and a
kept file have the same factors to the last bit, and the same hash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cogen.adapter import Factors
from cogen.config import Wire

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from cogen.adapter.gate import GateStatistics

SIDES = ("a", "b")
DIRECTIONS = {"a": 0, "b": 1}  # the axis of a side along which the r directions lie
SCALE = "_scale"
LARGEST = 127
SIZES = {"int8": 1, "float16": 2}
Layout = Mapping[str, tuple[str, tuple[int, ...]]]


def to_arrays(factors: Mapping[str, Factors], prefix: str = "", wire: Wire = "float32") -> dict[str, NDArray[Any]]:
    """Arrays by name; `prefix` goes before each name."""
    if wire == "float32":
        sides = [(f"{prefix}{n}.{side}", getattr(f, side)) for n, f in factors.items() for side in SIDES]
        return {name: tensor.contiguous().numpy() for name, tensor in sides}
    arrays: dict[str, NDArray[Any]] = {}
    for n, f in factors.items():
        for side in SIDES:
            name = f"{prefix}{n}.{side}"
            arrays[name], arrays[name + SCALE] = _rounded(getattr(f, side), DIRECTIONS[side])
    return arrays


def to_factors(arrays: Mapping[str, NDArray[Any]], scaling: float, prefix: str = "") -> dict[str, Factors]:
    """The inverse of `to_arrays`, as copies that may be trained; arrays with another prefix are ignored."""
    import torch

    own = [key for key in arrays if (key.startswith(prefix) if prefix else "/" not in key)]
    mine = {key.removeprefix(prefix): arrays[key] for key in own}
    names = sorted({key.rpartition(".")[0] for key in mine})

    def copied(name: str, side: str) -> Tensor:
        array, scale = torch.from_numpy(mine[f"{name}.{side}"].copy()), mine.get(f"{name}.{side}{SCALE}")
        if scale is None:
            return array
        shape = (-1, 1) if DIRECTIONS[side] == 0 else (1, -1)
        return array.float() * torch.from_numpy(scale.copy()).reshape(shape)

    return {n: Factors(copied(n, "a"), copied(n, "b"), scaling) for n in names}


def wire_of_start(factors: Mapping[str, Factors], wire: Wire) -> Wire:
    """How a round's start is sent: fresh factors (every B is zero) in float32, since domains compare them with the draw of the run's seed."""
    return wire if any(bool(f.b.any()) for f in factors.values()) else "float32"


def through_wire(factors: Mapping[str, Factors], wire: Wire) -> dict[str, Factors]:
    """The factors as they arrive."""
    if wire == "float32":
        return dict(factors)
    arrays = to_arrays(factors, wire=wire)
    return {
        n: to_factors({k: arrays[k] for k in arrays if k.rpartition(".")[0] == n}, f.scaling)[n]
        for n, f in factors.items()
    }


def num_bytes(factors: Mapping[str, Factors], wire: Wire = "float32") -> int:
    """Of the arrays of `factors`."""
    if wire == "float32":
        return sum(f.a.nbytes + f.b.nbytes for f in factors.values())
    return sum(f.a.numel() + f.b.numel() + 8 * f.rank for f in factors.values())


def reply_layout(modules: Mapping[str, tuple[int, int]], rank: int, wire: Wire = "float32") -> Layout:
    """Dtype and shape of the arrays of a train reply, by name.

    Args:
        modules: the adapted ones, name to `(d_out, d_in)`.
        rank: LoRA rank of the domain; a module of lower rank is cut to it.
    """
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, (d_out, d_in) in modules.items():
        mine = min(rank, d_out, d_in)
        layout[f"{name}.a"], layout[f"{name}.b"] = (wire, (mine, d_in)), (wire, (d_out, mine))
        if wire == "int8":
            layout[f"{name}.a{SCALE}"] = layout[f"{name}.b{SCALE}"] = ("float32", (mine,))
    return layout


GATE_ARRAYS = ("gate/mean", "gate/variance")
"""float16 `(d,)` each: what a reply tells a gate of the domain's text (`cogen.adapter.gate`)."""


def gate_arrays(statistics: GateStatistics) -> dict[str, NDArray[Any]]:
    """The statistics as arrays of a reply."""
    parts = (statistics.mean, statistics.variance)
    return {name: part.half().numpy() for name, part in zip(GATE_ARRAYS, parts, strict=True)}


def to_gate(arrays: Mapping[str, NDArray[Any]], num_tokens: int) -> GateStatistics:
    """The inverse of `gate_arrays`."""
    import torch

    from cogen.adapter.gate import GateStatistics

    mean, variance = (torch.from_numpy(arrays[name].copy()).float() for name in GATE_ARRAYS)
    return GateStatistics(mean, variance, num_tokens)


def layout_bytes(layout: Layout) -> int:
    """Of all arrays."""
    return sum(math.prod(shape) * SIZES.get(dtype, 4) for dtype, shape in layout.values())


def _rounded(side: Tensor, directions: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 values and a scale for each direction, the least power of two with which all values fit."""
    import torch

    largest = side.detach().float().abs().amax(dim=1 - directions)
    exponent = torch.ceil(torch.log2(largest.double() / LARGEST))
    exponent = torch.where(torch.exp2(exponent) * LARGEST < largest.double(), exponent + 1, exponent)  # log2 rounds
    scale = torch.where(largest > 0, torch.exp2(exponent.clamp(min=-126.0)), torch.ones_like(exponent)).float()
    shape = (-1, 1) if directions == 0 else (1, -1)
    values = (side.detach().float() / scale.reshape(shape)).round().clamp(-LARGEST, LARGEST).to(torch.int8)
    return values.contiguous().numpy(), scale.numpy()
