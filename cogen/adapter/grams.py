"""`gram.safetensors` in an adapter folder: second moments of the inputs of the adapted layers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from cogen.adapter.factors import Gram, is_finite
from cogen.adapter.peft_config import malformed
from cogen.adapter.stored import SIZES, header_of, read_tensor

GRAM_NAME = "gram.safetensors"


class StoredGrams(Mapping[str, Gram]):
    """The Gram statistics of an adapter folder; each access reads one module from disk.

    Raises:
        AdapterError: at once for a malformed file, on access for numbers that are not finite or out of bounds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places = header_of(path)
        self._names = sorted(key.removesuffix(".directions") for key in self._places if key.endswith(".directions"))
        wanted = {f"{name}.{part}" for name in self._names for part in ("directions", "ridge")}
        shapes = all(len(self._places[f"{n}.directions"].shape) == 2 for n in self._names)
        if wanted != set(self._places) or not shapes or any(p.dtype not in SIZES for p in self._places.values()):
            raise malformed(path.parent, f"directions and ridge of every module in {GRAM_NAME}", "other tensors")

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __getitem__(self, name: str) -> Gram:
        with open(self.path, "rb") as file:
            directions, ridge = (read_tensor(file, self._places[f"{name}.{p}"]) for p in ("directions", "ridge"))
        if ridge.numel() != 1 or not is_finite(directions) or not 0.0 < float(ridge) < float("inf"):
            raise malformed(self.path.parent, "finite directions and a ridge above 0", f"others in {name}")
        return Gram(directions, float(ridge))


def open_grams(folder: Path) -> StoredGrams | None:
    """The statistics of an adapter folder, which stay on disk; None if there are none."""
    path = folder / GRAM_NAME
    return StoredGrams(path) if path.is_file() else None


def gram_bytes(grams: Mapping[str, Gram]) -> bytes:
    """The content of `gram.safetensors`."""
    import torch
    from safetensors.torch import save

    tensors = {}
    for name in sorted(grams):
        tensors[f"{name}.directions"] = grams[name].directions.contiguous()
        tensors[f"{name}.ridge"] = torch.tensor([grams[name].ridge], dtype=torch.float32)
    return save(tensors, metadata={"format": "1"})


def gram_digest(grams: Mapping[str, Gram]) -> str:
    """sha256 over all modules, one in memory at a time."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(grams):
        gram = grams[name]
        ridge = float(torch.tensor(gram.ridge, dtype=torch.float32))  # as it comes back from a file
        digest.update(f"{name} {tuple(gram.directions.shape)} {ridge!r}\n".encode())
        digest.update(gram.directions.contiguous().numpy().data)
    return digest.hexdigest()
