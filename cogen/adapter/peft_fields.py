"""The settings of `adapter_config.json`: which of them cogen reads as PEFT does, and which it refuses by name.

cogen holds an adapter as delta_W = scaling * B @ A per module. A setting is therefore read (it gives the ranks, the
scalings or the modules), without effect on delta_W, or refused unless it is off. A setting that is not listed here, one
of a newer PEFT for example, is refused unless it is off, since its effect is not known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

DEFAULT_RANK = 8
DEFAULT_ALPHA = 8
READ = frozenset(
    {
        *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("peft_type", "task_type", "bias", "init_lora_weights", "base_model_name_or_path"),
    }
)
WITHOUT_EFFECT = frozenset(
    {
        *("peft_version", "auto_mapping", "revision", "inference_mode", "runtime_config"),
        *("lora_dropout", "merge_weights"),  # dropout is off in inference
        "fan_in_fan_out",  # how the base stores its weights, which PEFT takes from the layer
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),  # of `init_lora_weights` alone
        *("qalora_group_size", "megatron_core"),  # of use_qalora and megatron_config, which are refused
    }
)
# Of `init_lora_weights`: those that leave the weights of the base as they are. pissa, olora, loftq, corda and lora_ga
# change them, and delta_W is then no longer scaling * B @ A.
STARTS = ("gaussian", "eva", "orthogonal", "mica")
ALL_LINEAR = "all-linear"
HEADS = ("lm_head", "embed_out")


def unusable_setting(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first setting that an adapter of the form scaling * B @ A cannot have: what is expected, what it is.

    Returns: None if there is none. `target_modules` and the like are checked with the tensors (`unadapted_by`), ranks
        and alphas in `scaling_of`.
    """
    if config.get("peft_type") != "LORA":
        return "a LoRA adapter", f"peft_type {config.get('peft_type', 'missing')!r}"
    for key in sorted(config.keys() - READ - WITHOUT_EFFECT):
        if config[key]:
            return "plain LoRA, and no setting that cogen does not know", f"{key} = {config[key]!r}"
    if config.get("bias", "none") != "none":
        return "plain LoRA", f"bias = {config['bias']!r}"
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        return "an adapter of a causal language model", f"task_type = {config['task_type']!r}"
    start = config.get("init_lora_weights")
    if not (start is None or isinstance(start, bool) or (isinstance(start, str) and start.lower() in STARTS)):
        return "an adapter of the base as it is", f"init_lora_weights = {start!r}"
    for key, kinds in (("use_rslora", bool), ("base_model_name_or_path", str)):
        if not isinstance(config.get(key), kinds | None):
            return f"a {'name' if kinds is str else 'boolean'}", f"{key} = {config[key]!r}"
    return None


def unadapted_by(name: str, is_embedding: bool, config: Mapping[str, Any]) -> str | None:
    """The setting by which PEFT gives the module `name` no LoRA, so that it would ignore its tensors; None if it does.

    Raises:
        TypeError, re.error: a setting is neither a pattern nor a list of names.
    Source: `check_target_module_exists` of PEFT.
    """
    excluded, targets = config.get("exclude_modules"), config.get("target_modules")
    if excluded and _matches(excluded, name):
        return "exclude_modules"
    if isinstance(targets, str):
        if targets.lower() == ALL_LINEAR:
            return "target_modules" if is_embedding or name.rpartition(".")[2] in HEADS else None
        return None if _matches(targets, name) else "target_modules"
    if not targets or not _matches(targets, name):
        return "target_modules"
    return None if name in targets or _is_chosen_layer(name, config) else "layers_to_transform"


def _matches(patterns: Any, name: str) -> bool:
    """A string is a pattern of the whole name, a list holds ends of it."""
    if isinstance(patterns, str):
        return re.fullmatch(patterns, name) is not None
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        raise TypeError
    return any(name == p or name.endswith(f".{p}") for p in patterns)


def _is_chosen_layer(name: str, config: Mapping[str, Any]) -> bool:
    """Whether the first number in the name is among `layers_to_transform`."""
    chosen, patterns = config.get("layers_to_transform"), config.get("layers_pattern")
    if chosen is None or chosen == []:
        return True
    numbers = chosen if isinstance(chosen, list) else [chosen]
    if not all(type(n) is int for n in numbers):
        raise TypeError
    for pattern in [patterns] if isinstance(patterns, str) and patterns else patterns or [None]:
        form = r".*?\.[^.]*\.(\d+)\." if pattern is None else rf"(?:^|.*?\.){pattern}\.(\d+)\."
        if match := re.match(form, name):
            return int(match[match.lastindex or 1]) in numbers
    return False
