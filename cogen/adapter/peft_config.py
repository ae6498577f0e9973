"""`adapter_config.json`: PEFT's settings, written from factors and read for ranks and alphas."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogen.adapter.factors import Factors, layout_of
from cogen.adapter.peft_fields import DEFAULT_ALPHA, DEFAULT_RANK, unadapted_by, unusable_setting
from cogen.errors import AdapterError

if TYPE_CHECKING:
    from peft import LoraConfig

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"


def lora_config(factors: Mapping[str, Factors], base_name: str) -> LoraConfig:
    """PEFT's config for `factors`, with ranks and alphas by module."""
    from peft import LoraConfig

    return LoraConfig(**_values(factors, base_name))


def config_json(factors: Mapping[str, Factors], base_name: str) -> str:
    """The text of `adapter_config.json`, keys in a fixed order; PEFT has defaults for all other keys.

    Written without PEFT, whose import takes seconds.
    """
    values = {"peft_type": "LORA", **_values(factors, base_name)}
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def _values(factors: Mapping[str, Factors], base_name: str) -> dict[str, Any]:
    rank = max(layout.rank for layout in layout_of(factors).values())
    scalings = {n: (f.rank, f.scaling * f.rank) for n, f in factors.items()}
    alpha = next(a for r, a in scalings.values() if r == rank)
    ranks = {n: r for n, (r, _) in scalings.items() if r != rank}
    alphas = {n: _tidy(a) for n, (_, a) in scalings.items() if a != alpha}
    return {
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": _tidy(alpha),
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(factors),
        "rank_pattern": {f"^{re.escape(n)}": r for n, r in ranks.items()},
        "alpha_pattern": {f"^{re.escape(n)}": a for n, a in alphas.items()},
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def _tidy(alpha: float) -> Any:
    """An integer if the value is one: PEFT's files hold `32`, not `32.0`."""
    return int(alpha) if float(alpha).is_integer() else alpha


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of a plain LoRA adapter; any other kind is refused, and the error names it."""
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
    except (ValueError, RecursionError) as error:
        raise malformed(folder, "a JSON object", f"unreadable {CONFIG_NAME}: {error}") from None
    if not isinstance(config, dict):
        raise malformed(folder, "a JSON object", f"{type(config).__name__} in {CONFIG_NAME}")
    if (found := unusable_setting(config)) is not None:
        raise malformed(folder, found[0], found[1])
    return config


def require_target(name: str, is_embedding: bool, config: Mapping[str, Any], folder: Path) -> None:
    """Refuse a module whose tensors PEFT would ignore, since the config gives it no LoRA; names the setting."""
    shown = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
    try:
        by = unadapted_by(name, is_embedding, config)
    except (TypeError, re.error):
        found = ", ".join(f"{key} = {config[key]!r}" for key in shown if config.get(key))
        raise malformed(folder, f"names or a pattern in {CONFIG_NAME}", found) from None
    if by is not None:
        got = f"{by} = {config[by]!r}" if by in config else f"no {by}"
        raise malformed(folder, f"settings that adapt {name}, which has tensors", got)


def scaling_of(name: str, rank: int, config: Mapping[str, Any], folder: Path) -> float:
    """alpha / r, or alpha / sqrt(r) with rsLoRA, by PEFT's patterns and defaults; `rank` is the rank of the tensors."""
    try:
        wanted = _by_pattern(name, config.get("rank_pattern"), config.get("r", DEFAULT_RANK))
        alpha = _by_pattern(name, config.get("alpha_pattern"), config.get("lora_alpha", DEFAULT_ALPHA))
        if type(wanted) is not int or type(alpha) not in (int, float):
            raise TypeError
        alpha = float(alpha)
    except (TypeError, AttributeError, OverflowError, re.error):
        found = ", ".join(f"{k} = {config.get(k)!r:.200}" for k in ("r", "lora_alpha", "rank_pattern", "alpha_pattern"))
        raise malformed(folder, f"numbers in {CONFIG_NAME}", found) from None
    if wanted != rank or not math.isfinite(alpha):
        keys = ", ".join(k for k in ("r", "rank_pattern", "lora_alpha", "alpha_pattern") if config.get(k) is not None)
        missing = "" if "r" in config else f"; r is missing, for which PEFT takes {DEFAULT_RANK}"
        got = f"rank {rank} of the tensors, alpha {alpha} (by {keys or 'no key'}{missing})"
        raise malformed(folder, f"rank {wanted} and a finite alpha in {name}", got)
    return float(alpha / (math.sqrt(wanted) if config.get("use_rslora") else wanted))


def _by_pattern(name: str, patterns: Mapping[str, Any] | None, default: Any) -> Any:
    """PEFT's rule: the first pattern that matches the end of the name, else the default."""
    matching = (v for pattern, v in (patterns or {}).items() if re.match(rf"(.*\.)?({pattern})$", name))
    return next(matching, (patterns or {}).get(name, default))


def malformed(folder: Path, expected: str, got: str) -> AdapterError:
    """The error for a folder that does not hold an adapter that cogen can use."""
    return AdapterError(
        "cannot use adapter",
        expected=expected,
        got=got,
        where=str(folder),
        fix="Retrain or export it as plain LoRA in safetensors.",
    )
