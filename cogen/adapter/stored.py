"""Factors on disk, read one module at a time, so that a hundred adapters need the memory of a hundred modules.

The safetensors library checks the file when it is opened. Tensors are then read at the offsets in the header, since
memory-mapped ones would stay in memory until the last of them is released.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogen.adapter.factors import Factors, Layout, is_finite
from cogen.adapter.peft_config import WEIGHTS_NAME, malformed, scaling_of

if TYPE_CHECKING:
    from torch import Tensor

KEY = re.compile(r"^(?:base_model\.model\.)?(.+)\.lora_(embedding_)?([AB])(?:\.(?!weight$)\w+)?(\.weight)?$")
SIZES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class TensorLocation:
    """The position of a tensor in a file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class StoredFactors(Mapping[str, Factors]):
    """The factors of an adapter folder; each access reads one module from disk, as float32.

    Args:
        folder: holds a safetensors file with PEFT's names.
        config: the config of the same folder, for ranks and alphas.
    Raises:
        AdapterError: at once for a malformed file, on access for factors that are not finite.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.path = _weights_path(folder)
        self.embeddings: frozenset[str] = frozenset()
        self._places = self._modules(header_of(self.path))
        self.layout = {name: self._check(name, ab) for name, ab in self._places.items()}
        self._scalings = {n: scaling_of(n, layout.rank, config, folder) for n, layout in self.layout.items()}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> Factors:
        with open(self.path, "rb") as file:
            a, b = (read_tensor(file, self._places[name][side]) for side in "AB")
        if not (is_finite(a) and is_finite(b)):
            raise malformed(self.path.parent, "finite factors", f"NaN or infinity in {name}")
        return Factors(a=a, b=b, scaling=self._scalings[name])

    def _modules(self, header: Mapping[str, TensorLocation]) -> dict[str, dict[str, TensorLocation]]:
        found: dict[str, dict[str, TensorLocation]] = {}
        tables = set()
        for key, place in header.items():
            match = KEY.match(key)
            if match is None or (match[2] is None) != (match[4] is not None):
                hint = ", the base's own table (save with save_embedding_layers=False)" if "base_layer" in key else ""
                expected = "lora_A and lora_B of linear layers or embeddings"
                raise malformed(self.path.parent, expected, f"tensor {key!r}{hint}")
            found.setdefault(match[1], {})[match[3]] = place
            tables |= {match[1]} if match[2] else set()
        if not found:
            raise malformed(self.path.parent, "LoRA factors", "an empty file")
        self.embeddings = frozenset(tables)
        return dict(sorted(found.items()))

    def _check(self, name: str, ab: Mapping[str, TensorLocation]) -> Layout:
        folder = self.path.parent
        if set(ab) != {"A", "B"}:
            raise malformed(folder, f"lora_A and lora_B of {name}", f"lora_{''.join(sorted(ab))} alone")
        a, b = ab["A"], ab["B"]
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or a.shape[0] == 0:
            raise malformed(folder, "A (r, d_in) and B (d_out, r)", f"{a.shape} and {b.shape} in {name}")
        for place in (a, b):
            if place.dtype not in SIZES:
                raise malformed(folder, "floating-point factors", f"{place.dtype} in {name}")
        return Layout(d_out=b.shape[0], d_in=a.shape[1], rank=a.shape[0])


def _weights_path(folder: Path) -> Path:
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".pkl"})
        got = f"{pickled[0]}, a pickled file, which is left unread" if pickled else "no weights"
        raise malformed(folder, WEIGHTS_NAME, got)
    return path


def header_of(path: Path) -> dict[str, TensorLocation]:
    """The position of each tensor; the library checks that the file is whole and its header consistent."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt"):
            pass
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entries = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise malformed(path.parent, "a safetensors file", f"{path.name}: {error}") from None
    entries.pop("__metadata__", None)
    start = 8 + length
    return {
        key: TensorLocation(e["dtype"], tuple(e["shape"]), start + e["data_offsets"][0], start + e["data_offsets"][1])
        for key, e in entries.items()
    }


def read_tensor(file: Any, place: TensorLocation) -> Tensor:
    """The tensor at `place` of an open file, as float32."""
    import torch

    file.seek(place.begin)
    content = bytearray(file.read(place.end - place.begin))
    if not content:
        return torch.zeros(place.shape)
    return torch.frombuffer(content, dtype=getattr(torch, SIZES[place.dtype])).reshape(place.shape).float()
