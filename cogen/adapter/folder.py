"""The adapter folder: PEFT's two files, and `cogen.json` with the origin of the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, SerializerFunctionWrapHandler, model_serializer

from cogen.adapter.factors import Factors, Gram, factor_digest, layout_of
from cogen.adapter.fingerprint import Fingerprint
from cogen.adapter.gate import GATE_NAME, GateStatistics, gate_bytes, gate_digest, open_gate
from cogen.adapter.grams import GRAM_NAME, gram_bytes, gram_digest, open_grams
from cogen.adapter.peft_config import CONFIG_NAME, WEIGHTS_NAME, config_json, malformed, read_config
from cogen.adapter.stored import StoredFactors
from cogen.errors import AdapterError
from cogen.files import write_folder
from cogen.records import Record

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST_NAME = "cogen.json"
PEFT_PREFIX = "base_model.model."


class Manifest(Record):
    """`cogen.json`: where an adapter comes from. Other fields (domain, tokens trained, parents, ...) are kept.

    Args:
        base: the name of the base model when the adapter was made.
        factors_sha256, gram_sha256, gate_sha256: hashes of the weight files; a file with another hash is refused.
        gate_tokens: tokens that the gate statistics were taken over.
    """

    model_config = ConfigDict(extra="allow")
    file_name = MANIFEST_NAME
    error = AdapterError
    fix = "Copy the adapter again, or make it again."

    format: Literal[1] = 1
    base: str | None = None
    fingerprint: Fingerprint | None = None
    factors_sha256: str | None = None
    gram_sha256: str | None = None
    gate_sha256: str | None = None
    gate_tokens: int | None = None

    @model_serializer(mode="wrap")
    def _without_missing_files(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        optional = ("gram_sha256", "gate_sha256", "gate_tokens")
        return {k: v for k, v in serialize(self).items() if k not in optional or v is not None}


@dataclass(frozen=True)
class Adapter:
    """LoRA factors by module name, and their origin.

    Args:
        factors: module name (as in `model.named_modules()`) to its factors.
        base_name: the name of the base when the adapter was made.
        fingerprint: fingerprint of the base; None for an adapter that cogen did not make.
        manifest: the other values of `cogen.json` (domain, tokens trained, metrics, parents, ...).
        embeddings: the modules that are embeddings, not linear layers.
        grams: second moments of the modules' inputs, for `regmean`; None if none were taken.
        gate: statistics of the domain's text, for the gate of a routed model; None if none were taken.

    >>> adapter = Adapter.load("runs/quickstart/merged")  # doctest: +SKIP
    >>> adapter.save("copy")                              # doctest: +SKIP
    """

    factors: Mapping[str, Factors]
    base_name: str
    fingerprint: Fingerprint | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    embeddings: frozenset[str] = frozenset()
    grams: Mapping[str, Gram] | None = None
    gate: GateStatistics | None = None

    @property
    def rank(self) -> int:
        """The largest rank of any module."""
        return max(layout.rank for layout in layout_of(self.factors).values())

    @cached_property
    def digest(self) -> str:
        """sha256 of the factors (`factor_digest`)."""
        return factor_digest(self.factors)

    def save(self, folder: str | Path) -> None:
        """Write the adapter as a PEFT folder with `cogen.json`; it appears whole or not at all."""
        from safetensors.torch import save

        files = {
            CONFIG_NAME: config_json(self.factors, self.base_name).encode(),
            WEIGHTS_NAME: save(_to_peft(self.factors, self.embeddings), metadata={"format": "pt"}),
            MANIFEST_NAME: self.manifest_json().encode(),
        }
        if self.grams is not None:
            files[GRAM_NAME] = gram_bytes(self.grams)
        if self.gate is not None:
            files[GATE_NAME] = gate_bytes(self.gate)
        write_folder(Path(folder), files)

    def manifest_json(self) -> str:
        """The text of `cogen.json`."""
        known = {
            "base": self.base_name,
            "fingerprint": self.fingerprint,
            "factors_sha256": self.digest,
            "gram_sha256": None if self.grams is None else gram_digest(self.grams),
            "gate_sha256": None if self.gate is None else gate_digest(self.gate),
            "gate_tokens": None if self.gate is None else self.gate.num_tokens,
        }
        return Manifest(**{**self.manifest, **known}).to_json()

    @classmethod
    def load(cls, folder: str | Path) -> Adapter:
        """Read an adapter folder written by cogen or PEFT.

        Raises:
            AdapterError: missing, pickled, malformed, not finite, or not plain LoRA.
        """
        return _read(cls, Path(folder), keep=True)

    @classmethod
    def open(cls, folder: str | Path) -> Adapter:
        """Like `load`, but the factors stay on disk, and each access reads one module.

        Opening reads and checks all of them once, without keeping them in memory.
        """
        return _read(cls, Path(folder), keep=False)


def _read(kind: type[Adapter], folder: Path, keep: bool) -> Adapter:
    config = read_config(folder)
    stored = StoredFactors(folder, config)
    known = Manifest.load_if_present(folder / MANIFEST_NAME) or Manifest()  # PEFT writes no manifest
    base_name = known.base or str(config.get("base_model_name_or_path") or "")
    grams, more = open_grams(folder), dict(known.model_extra or {})
    gate = open_gate(folder, known.gate_tokens or 0)
    factors = dict(stored) if keep else stored
    adapter = kind(factors, base_name, known.fingerprint, more, stored.embeddings, grams, gate)
    if adapter.digest != (known.factors_sha256 or adapter.digest):  # half-copied or edited
        raise malformed(folder, f"factors with sha256 {str(known.factors_sha256)[:12]}", adapter.digest[:12])
    _require_hash(folder, GRAM_NAME, known.gram_sha256, None if grams is None else gram_digest(grams))
    _require_hash(folder, GATE_NAME, known.gate_sha256, None if gate is None else gate_digest(gate))
    return adapter


def _require_hash(folder: Path, file: str, expected: str | None, found: str | None) -> None:
    """Refuse a file next to the factors that has another hash than the manifest names, or is missing."""
    if expected is not None and found != expected:
        raise malformed(folder, f"a {file} with sha256 {expected[:12]}", found[:12] if found else "none")


def _to_peft(factors: Mapping[str, Factors], embeddings: frozenset[str]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in sorted(factors):
        key = (
            f"{PEFT_PREFIX}{name}.lora_embedding_{{}}"
            if name in embeddings
            else f"{PEFT_PREFIX}{name}.lora_{{}}.weight"
        )
        f = factors[name]
        tensors[key.format("A")] = f.a.contiguous()
        tensors[key.format("B")] = f.b.contiguous()
    return tensors
