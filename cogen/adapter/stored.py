"""Factors on disk, read one module at a time, so that a hundred adapters need the memory of a hundred modules.

The safetensors library checks the file when it is opened. Tensors are then read at the offsets in the header, since
memory-mapped ones would stay in memory until the last of them is released.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogen.adapter.factors import Factors, Layout, largest_entry, overflows
from cogen.adapter.peft_config import WEIGHTS_NAME, malformed, require_target, scaling_of
from cogen.errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor

KEY = re.compile(
    r"^(?P<prefix>base_model\.model\.)?(?P<module>.+)\.lora_(?P<table>embedding_)?(?P<side>[AB])"
    r"(?P<adapter>\.(?!weight$)[^.]+)?(?P<weight>\.weight)?$"
)
SIZES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class TensorLocation:
    """The key of a tensor, and its position in a file."""

    key: str
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
        for name in self._places:
            require_target(name, name in self.embeddings, config, folder)
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
        self._require_finite(name, a, b)
        return Factors(a=a, b=b, scaling=self._scalings[name])

    def _require_finite(self, name: str, a: Tensor, b: Tensor) -> None:
        """Refuse factors, or a product of them, that single precision cannot hold; names the tensor."""
        for side, tensor in (("A", a), ("B", b)):
            if not math.isfinite(largest_entry(tensor)):
                place = self._places[name][side]
                above = ", or a number above 3.4e38, the largest in float32" if place.dtype == "F64" else ""
                got = f"NaN or infinity in {name}, tensor {place.key!r}{above}"
                raise malformed(self.path.parent, "finite factors", got)
        if overflows(a, b, self._scalings[name]):
            got = f"more in {name}, tensors {' and '.join(repr(self._places[name][side].key) for side in 'AB')}"
            raise malformed(self.path.parent, "an update of at most 3.4e38, the largest number in float32", got)

    def _modules(self, header: Mapping[str, TensorLocation]) -> dict[str, dict[str, TensorLocation]]:
        found: dict[str, dict[str, TensorLocation]] = {}
        kinds: dict[tuple[bool, str], str] = {}
        tables: dict[str, bool] = {}
        for key, place in header.items():
            match = KEY.match(key)
            if match is None or bool(match["table"]) == bool(match["weight"]) or "base_layer" in key:
                raise self._foreign(key)
            name, is_table = match["module"], match["table"] is not None
            kinds.setdefault((match["prefix"] is None, match["adapter"] or ""), key)
            if len(kinds) > 1 or name.startswith("base_model.") or tables.setdefault(name, is_table) != is_table:
                first = next(iter(kinds.values()))
                got = f"{first!r} and {key!r}" if first != key else repr(key)
                raise malformed(self.path.parent, "the tensors of one adapter, all named in one way", got)
            found.setdefault(name, {})[match["side"]] = place
        if not found:
            raise malformed(self.path.parent, "LoRA factors", "an empty file")
        self.embeddings = frozenset(name for name, is_table in tables.items() if is_table)
        return dict(sorted(found.items()))

    def _foreign(self, key: str) -> AdapterError:
        """The error for a tensor that is no factor of a module."""
        hint = ", the base's own table (save with save_embedding_layers=False)" if "base_layer.weight" in key else ""
        return malformed(self.path.parent, "lora_A and lora_B of linear layers or embeddings", f"tensor {key!r}{hint}")

    def _check(self, name: str, ab: Mapping[str, TensorLocation]) -> Layout:
        folder = self.path.parent
        if set(ab) != {"A", "B"}:
            raise malformed(folder, f"lora_A and lora_B of {name}", f"lora_{''.join(sorted(ab))} alone")
        a, b = ab["A"], ab["B"]
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or 0 in a.shape + b.shape:
            raise malformed(folder, "A (r, d_in) and B (d_out, r)", f"{a.shape} and {b.shape} in {name}")
        for place in (a, b):
            if place.dtype not in SIZES:
                raise malformed(folder, "floating-point factors", f"{place.dtype} in {name}, tensor {place.key!r}")
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
        with open(path, "rb") as file:
            # The library takes no path that is not UTF-8.
            is_text = os.fsencode(path).decode("utf-8", "ignore").encode() == os.fsencode(path)
            with safe_open(path if is_text else f"/dev/fd/{file.fileno()}", framework="pt"):
                pass
            length = int.from_bytes(file.read(8), "little")
            entries = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise malformed(path.parent, "a safetensors file", f"{path.name}: {error}") from None
    entries.pop("__metadata__", None)
    start = 8 + length
    return {
        key: TensorLocation(key, e["dtype"], tuple(e["shape"]), *(start + at for at in e["data_offsets"]))
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
