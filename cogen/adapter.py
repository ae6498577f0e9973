"""LoRA adapters: factors and manifest, read and written as plain PEFT folders.

Shapes: `a (r, d_in)`, `b (d_out, r)`, `delta_W = scaling * b @ a (d_out, d_in)`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogen.errors import AdapterError, ContractMismatch
from cogen.files import write_folder

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor

FORMAT = 1
WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"
MANIFEST_NAME = "cogen.json"
PEFT_PREFIX = "base_model.model."
REBASING = ("pissa", "olora", "corda", "loftq", "lora")  # "lora" is lora_ga: these change the base's weights
REWRITING_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")  # of PEFT: they change the base's weights too


@dataclass(frozen=True)
class Contract:
    """What an adapter and a base must agree on: three sha256 digests, in hex."""

    weights: str
    tokenizer: str
    modules: str

    def require(self, other: Contract, where: str) -> None:
        """Raise ContractMismatch unless `other` is equal; `where` says whose it is."""
        for name in ("weights", "tokenizer", "modules"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ContractMismatch(
                    "adapter mismatch",
                    expected=f"base {name} {mine[:12]}",
                    got=theirs[:12],
                    where=where,
                    fix="Use adapters that were trained from this very base model.",
                )


@dataclass(frozen=True)
class Factors:
    """One module's LoRA factors: `a (r, d_in)`, `b (d_out, r)`, float32 unless a test asks for float64."""

    a: Tensor
    b: Tensor
    scaling: float

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """`(d_out, d_in)` of the module."""
        return int(self.b.shape[0]), int(self.a.shape[1])

    def delta(self) -> Tensor:
        """`delta_W (d_out, d_in)`; for tests and single modules, never for a whole model."""
        return self.scaling * (self.b @ self.a)


@dataclass(frozen=True)
class Adapter:
    """LoRA factors by module name, and what is known of where they come from.

    Args:
        factors: module name (as in `model.named_modules()`) to its factors.
        base_name: what the base was called when the adapter was made.
        contract: of the base; None for an adapter that was not made here.
        manifest: the rest of `cogen.json` (domain, tokens trained, metrics, parents, ...).

    >>> adapter = Adapter.load("runs/quickstart/merged")  # doctest: +SKIP
    >>> adapter.save("copy")                              # doctest: +SKIP
    """

    factors: Mapping[str, Factors]
    base_name: str
    contract: Contract | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The largest rank of any module."""
        return max(f.rank for f in self.factors.values())

    def save(self, folder: str | Path) -> None:
        """Write the adapter as a PEFT folder with `cogen.json`; whole or not at all."""
        from safetensors.torch import save

        tensors = _to_peft(self.factors)
        write_folder(
            Path(folder),
            {
                CONFIG_NAME: _config_json(self).encode(),
                WEIGHTS_NAME: save(tensors, metadata={"format": "pt"}),
                MANIFEST_NAME: _manifest_json(self).encode(),
            },
        )

    @classmethod
    def load(cls, folder: str | Path) -> Adapter:
        """Read an adapter folder made here or by PEFT.

        Raises:
            AdapterError: missing, pickled, malformed, not finite, or of a kind that is not plain LoRA.
        """
        return _read(Path(folder))


def factor_digest(factors: Mapping[str, Factors]) -> str:
    """sha256 of all factors by module name, whatever file layout they are stored in."""
    digest = hashlib.sha256()
    for name in sorted(factors):
        f = factors[name]
        scaling = f.scaling * f.rank / f.rank  # as it comes back from a file, which holds alpha = scaling * rank
        digest.update(f"{name} {tuple(f.a.shape)} {tuple(f.b.shape)} {scaling!r}\n".encode())
        for tensor in (f.a, f.b):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _to_peft(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in sorted(factors):
        tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = factors[name].a.contiguous()
        tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = factors[name].b.contiguous()
    return tensors


def lora_config(factors: Mapping[str, Factors], base_name: str) -> LoraConfig:
    """PEFT's own config for `factors`, ranks and alphas that differ by module included."""
    from peft import LoraConfig

    rank = max(f.rank for f in factors.values())
    widest = next(f for f in factors.values() if f.rank == rank)
    alpha = widest.scaling * rank
    ranks = {n: f.rank for n, f in factors.items() if f.rank != rank}
    alphas = {n: _tidy(f.scaling * f.rank) for n, f in factors.items() if f.scaling * f.rank != alpha}
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=_tidy(alpha),
        lora_dropout=0.0,
        bias="none",
        target_modules=sorted(factors),
        rank_pattern={f"^{re.escape(n)}": r for n, r in ranks.items()},
        alpha_pattern={f"^{re.escape(n)}": a for n, a in alphas.items()},
        base_model_name_or_path=base_name,
        inference_mode=True,
    )


def _config_json(adapter: Adapter) -> str:
    """`adapter_config.json` as PEFT writes it, with its keys in a fixed order."""
    values = lora_config(adapter.factors, adapter.base_name).to_dict()
    values["target_modules"] = sorted(values["target_modules"])
    return json.dumps(values, indent=2, sort_keys=True, default=str) + "\n"


def _tidy(alpha: float) -> Any:
    """An integer where the value is one: PEFT's files hold `32`, not `32.0`."""
    return int(alpha) if float(alpha).is_integer() else alpha


def _manifest_json(adapter: Adapter) -> str:
    contract = None if adapter.contract is None else vars(adapter.contract)
    values = {
        **adapter.manifest,
        "format": FORMAT,
        "base": adapter.base_name,
        "contract": contract,
        "factors_sha256": factor_digest(adapter.factors),
    }
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def _read(folder: Path) -> Adapter:
    config = _read_config(folder)
    tensors = _read_tensors(folder)
    factors = {name: _pair(name, ab, config, folder) for name, ab in _by_module(tensors, folder).items()}
    manifest, contract = _read_manifest(folder)
    _check_digest(manifest, factors, folder)
    base_name = str(manifest.pop("base", None) or config.get("base_model_name_or_path") or "")
    return Adapter(factors=factors, base_name=base_name, contract=contract, manifest=manifest)


def _check_digest(manifest: dict[str, Any], factors: Mapping[str, Factors], folder: Path) -> None:
    """The manifest's digest is of these very factors; a half-copied or edited folder is refused."""
    said = manifest.pop("factors_sha256", None)
    if said is not None and said != (found := factor_digest(factors)):
        raise _malformed(folder, f"factors with sha256 {str(said)[:12]}", found[:12])


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise AdapterError(
            "cannot read adapter",
            expected=f"a folder with {CONFIG_NAME} and {WEIGHTS_NAME}",
            got="no such folder" if not folder.is_dir() else f"no {CONFIG_NAME}",
            where=str(folder),
            fix="Point at a folder that `cogen train`, `cogen merge` or PEFT has written.",
        )
    try:
        config: Any = json.loads(path.read_text("utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise _malformed(folder, "a JSON object", f"unreadable {CONFIG_NAME}: {error}") from None
    if not isinstance(config, dict):
        raise _malformed(folder, "a JSON object", f"{type(config).__name__} in {CONFIG_NAME}")
    _refuse_variants(config, folder)
    return config


def _refuse_variants(config: Mapping[str, Any], folder: Path) -> None:
    """Only plain LoRA has delta_W = scaling * B @ A; everything else is named and refused."""
    if str(config.get("peft_type", "LORA")).upper() != "LORA":
        raise _malformed(folder, "a LoRA adapter", f"peft_type {config['peft_type']!r}")
    for key in ("use_dora", "modules_to_save", "alora_invocation_tokens", "trainable_token_indices"):
        if config.get(key):
            raise _malformed(folder, "plain LoRA", f"{key} = {config[key]!r}")
    how = config.get("init_lora_weights")
    if isinstance(how, str) and how.lower().split("_")[0] in REBASING:
        raise _malformed(folder, "plain LoRA on the base's own weights", f"init_lora_weights = {how!r}")
    if config.get("bias", "none") != "none":
        raise _malformed(folder, "plain LoRA", f"bias = {config['bias']!r}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(REWRITING_STARTS):
        raise _malformed(folder, "an adapter of the base as it is", f"init_lora_weights = {start!r}")


def _malformed(folder: Path, expected: str, got: str) -> AdapterError:
    return AdapterError(
        "cannot use adapter",
        expected=expected,
        got=got,
        where=str(folder),
        fix="Retrain or export it as plain LoRA in safetensors.",
    )


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS_NAME
    if not path.is_file():
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".pkl"})
        got = f"{pickled[0]}, a pickled file, which is left unread" if pickled else "no weights"
        raise _malformed(folder, WEIGHTS_NAME, got)
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise _malformed(folder, "a safetensors file", f"{WEIGHTS_NAME}: {error}") from None


def _by_module(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    pattern = re.compile(r"^(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.\w+)?\.weight$")
    for key, tensor in tensors.items():
        match = pattern.match(key)
        if match is None:
            raise _malformed(folder, "lora_A and lora_B of linear layers", f"tensor {key!r}")
        found.setdefault(match[1], {})[match[2]] = tensor
    if not found:
        raise _malformed(folder, "LoRA factors", "an empty file")
    return dict(sorted(found.items()))


def _pair(name: str, ab: Mapping[str, Tensor], config: Mapping[str, Any], folder: Path) -> Factors:
    import torch

    if set(ab) != {"A", "B"}:
        raise _malformed(folder, f"lora_A and lora_B of {name}", f"lora_{''.join(sorted(ab))} alone")
    a, b = ab["A"].to(torch.float32), ab["B"].to(torch.float32)
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or a.shape[0] == 0:
        raise _malformed(folder, "A (r, d_in) and B (d_out, r)", f"{tuple(a.shape)} and {tuple(b.shape)} in {name}")
    if not (bool(torch.isfinite(a).all()) and bool(torch.isfinite(b).all())):
        raise _malformed(folder, "finite factors", f"NaN or infinity in {name}")
    try:
        wanted = int(_by_pattern(name, config.get("rank_pattern"), config.get("r", a.shape[0])))
        alpha = float(_by_pattern(name, config.get("alpha_pattern"), config.get("lora_alpha", a.shape[0])))
    except (TypeError, ValueError, AttributeError, re.error):
        found = ", ".join(f"{k} = {config.get(k)!r}" for k in ("r", "lora_alpha", "rank_pattern", "alpha_pattern"))
        raise _malformed(folder, f"numbers in {CONFIG_NAME}", found) from None
    if wanted != a.shape[0] or not math.isfinite(alpha):
        raise _malformed(folder, f"rank {wanted} and a finite alpha in {name}", f"rank {a.shape[0]}, alpha {alpha}")
    return Factors(a=a, b=b, scaling=alpha / (math.sqrt(wanted) if config.get("use_rslora") else wanted))


def _by_pattern(name: str, patterns: Mapping[str, Any] | None, default: Any) -> Any:
    """PEFT's rule: the first pattern that matches the end of the name, else the default."""
    matching = (v for pattern, v in (patterns or {}).items() if re.match(rf"(.*\.)?({pattern})$", name))
    return next(matching, default)


def _read_manifest(folder: Path) -> tuple[dict[str, Any], Contract | None]:
    path = folder / MANIFEST_NAME
    if not path.is_file():
        return {}, None
    try:
        values = json.loads(path.read_text("utf-8"))
        found = values.pop("contract", None)
        contract = None if found is None else Contract(**found)
    except (ValueError, TypeError, AttributeError) as error:
        raise _malformed(folder, f"a {MANIFEST_NAME} of format {FORMAT}", str(error)) from None
    if values.pop("format", FORMAT) != FORMAT:
        raise _malformed(folder, f"{MANIFEST_NAME} of format {FORMAT}", "another format")
    return values, contract
