"""`gate.safetensors` in an adapter folder: what a gate knows of the domain, which is how the base sees its text on average."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.adapter.factors import is_finite
from cogen.adapter.peft_config import malformed
from cogen.adapter.stored import header_of, read_tensor

if TYPE_CHECKING:
    from torch import Tensor

GATE_NAME = "gate.safetensors"
PARTS = ("mean", "variance")


@dataclass(frozen=True)
class GateStatistics:
    """Mean and variance of the base's last hidden states over tokens of a domain's training text; d is the hidden size.

    Args:
        mean, variance: `(d,)` each, float32 numbers that float16 can hold; the variance is above 0.
        num_tokens: tokens that they were taken over.
    """

    mean: Tensor
    variance: Tensor
    num_tokens: int


def gate_bytes(statistics: GateStatistics) -> bytes:
    """The content of `gate.safetensors`."""
    from safetensors.torch import save

    tensors = {part: getattr(statistics, part).half().contiguous() for part in PARTS}
    return save(tensors, metadata={"format": "1"})


def gate_digest(statistics: GateStatistics) -> str:
    """sha256 of the numbers."""
    digest = hashlib.sha256(f"{statistics.num_tokens}\n".encode())
    for part in PARTS:
        digest.update(getattr(statistics, part).float().contiguous().numpy().data)
    return digest.hexdigest()


def open_gate(folder: Path, num_tokens: int) -> GateStatistics | None:
    """The statistics of an adapter folder; None if there are none.

    Args:
        num_tokens: that the manifest names.
    Raises:
        AdapterError: the file is malformed.
    """
    path = folder / GATE_NAME
    if not path.is_file():
        return None
    places = header_of(path)
    shapes = {places[part].shape for part in PARTS if part in places}
    if set(places) != set(PARTS) or len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise malformed(folder, f"mean and variance of one length in {GATE_NAME}", "other tensors")
    with open(path, "rb") as file:
        mean, variance = (read_tensor(file, places[part]) for part in PARTS)
    if not is_finite(mean) or not is_finite(variance) or not float(variance.min()) > 0.0 or num_tokens < 1:
        raise malformed(folder, f"finite means, variances above 0 and a number of tokens in {GATE_NAME}", "others")
    return GateStatistics(mean, variance, num_tokens)
