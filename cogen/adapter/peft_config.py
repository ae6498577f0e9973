"""`adapter_config.json`: PEFT's settings, written from factors and read for ranks and alphas."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogen.adapter.factors import Factors, layout_of
from cogen.errors import AdapterError

if TYPE_CHECKING:
    from peft import LoraConfig

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
REBASING = ("pissa", "olora", "corda", "loftq", "lora_ga")  # initialisations that also change the base's weights
MORE_THAN_A_PRODUCT = ("use_dora", "modules_to_save", "alora_invocation_tokens", "trainable_token_indices")


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
    except (ValueError, UnicodeDecodeError) as error:
        raise malformed(folder, "a JSON object", f"unreadable {CONFIG_NAME}: {error}") from None
    if not isinstance(config, dict):
        raise malformed(folder, "a JSON object", f"{type(config).__name__} in {CONFIG_NAME}")
    _refuse_variants(config, folder)
    return config


def _refuse_variants(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse everything but plain LoRA, since only that has delta_W = scaling * B @ A."""
    if str(config.get("peft_type", "LORA")).upper() != "LORA":
        raise malformed(folder, "a LoRA adapter", f"peft_type {config['peft_type']!r}")
    for key in MORE_THAN_A_PRODUCT:
        if config.get(key):
            raise malformed(folder, "plain LoRA", f"{key} = {config[key]!r}")
    if config.get("bias", "none") != "none":
        raise malformed(folder, "plain LoRA", f"bias = {config['bias']!r}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(REBASING):
        raise malformed(folder, "an adapter of the base as it is", f"init_lora_weights = {start!r}")


def scaling_of(name: str, rank: int, config: Mapping[str, Any], folder: Path) -> float:
    """alpha / r, or alpha / sqrt(r) with rsLoRA, by PEFT's patterns; `rank` is the rank of the tensors."""
    try:
        wanted = int(_by_pattern(name, config.get("rank_pattern"), config.get("r", rank)))
        alpha = float(_by_pattern(name, config.get("alpha_pattern"), config.get("lora_alpha", rank)))
    except (TypeError, ValueError, AttributeError, re.error):
        found = ", ".join(f"{k} = {config.get(k)!r}" for k in ("r", "lora_alpha", "rank_pattern", "alpha_pattern"))
        raise malformed(folder, f"numbers in {CONFIG_NAME}", found) from None
    if wanted != rank or not math.isfinite(alpha):
        raise malformed(folder, f"rank {wanted} and a finite alpha in {name}", f"rank {rank}, alpha {alpha}")
    return alpha / (math.sqrt(wanted) if config.get("use_rslora") else wanted)


def _by_pattern(name: str, patterns: Mapping[str, Any] | None, default: Any) -> Any:
    """PEFT's rule: the first pattern that matches the end of the name, else the default."""
    matching = (v for pattern, v in (patterns or {}).items() if re.match(rf"(.*\.)?({pattern})$", name))
    return next(matching, default)


def malformed(folder: Path, expected: str, got: str) -> AdapterError:
    """The error for a folder that does not hold an adapter that cogen can use."""
    return AdapterError(
        "cannot use adapter",
        expected=expected,
        got=got,
        where=str(folder),
        fix="Retrain or export it as plain LoRA in safetensors.",
    )
