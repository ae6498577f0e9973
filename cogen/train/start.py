"""The factors that training starts from: modules, ranks and scalings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from cogen.adapter import Factors, Layout
from cogen.base import BaseInfo
from cogen.config import Train
from cogen.errors import ConfigError
from cogen.merge.patterns import matching
from cogen.train.lora import init_embedding, init_factors

Value = TypeVar("Value")


def start_factors(
    modules: Mapping[str, tuple[int, int]],
    settings: Train,
    embeddings: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, Factors]:
    """Fresh factors for the modules that `settings` adapts, with ranks and alphas by pattern.

    Args:
        modules: name to `(d_out, d_in)` of all linear layers that can be adapted.
        embeddings: name to `(d_out, d_in)` of the input embeddings, for `train.train_embeddings`.
    Raises:
        ConfigError: a pattern matches no module.
    """
    chosen, tables = _chosen(modules, settings, embeddings)
    ranks = _by_pattern(settings.rank_pattern, chosen, "train.rank_pattern")
    alphas = _by_pattern(settings.alpha_pattern, chosen, "train.alpha_pattern")
    factors: dict[str, Factors] = {}
    for name, shape in chosen.items():
        rank = ranks.get(name, settings.rank)
        scaling = settings.scaling_at(rank, alphas.get(name, settings.alpha))
        if name in tables:
            factors[name] = init_embedding(shape, name, rank, scaling, settings.seed)
        else:
            factors |= init_factors({name: shape}, rank, scaling, settings.seed)
    return factors


def start_layouts(
    modules: Mapping[str, tuple[int, int]],
    settings: Train,
    embeddings: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, Layout]:
    """The shapes and ranks of the factors that `start_factors` makes, without making them."""
    chosen, _ = _chosen(modules, settings, embeddings)
    ranks = _by_pattern(settings.rank_pattern, chosen, "train.rank_pattern")
    return {name: Layout(*shape, min(ranks.get(name, settings.rank), *shape)) for name, shape in chosen.items()}


def _chosen(
    modules: Mapping[str, tuple[int, int]], settings: Train, embeddings: Mapping[str, tuple[int, int]] | None
) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
    """All modules that are adapted, and the embeddings among them."""
    tables = dict(embeddings or {}) if settings.train_embeddings else {}
    return {**select_modules(modules, settings), **tables}, tables


def require_context(info: BaseInfo, settings: Train) -> None:
    """Refuse blocks longer than the context of the base, which has no positions for further tokens.

    Raises:
        ConfigError: `train.sequence_length` is above the context; names the limit.
    """
    if info.max_tokens is not None and settings.sequence_length > info.max_tokens:
        raise ConfigError(
            "cannot start training",
            expected=f"train.sequence_length of at most {info.max_tokens}, the context of base {info.name}",
            got=str(settings.sequence_length),
            fix="Lower train.sequence_length, or take another base.",
        )


def select_modules(modules: Mapping[str, tuple[int, int]], settings: Train) -> dict[str, tuple[int, int]]:
    """The modules that `train.target_modules` matches, in the order of `modules`.

    Raises:
        ConfigError: a pattern matches no module.
    """
    if settings.target_modules is None:
        return dict(modules)
    picked = {name for pattern in settings.target_modules for name in _picked(pattern, modules, "train.target_modules")}
    return {name: shape for name, shape in modules.items() if name in picked}


def _by_pattern(patterns: Mapping[str, Value], names: Iterable[str], key: str) -> dict[str, Value]:
    """Values by module; the first pattern that matches a module wins, as in PEFT."""
    found: dict[str, Value] = {}
    for pattern, value in reversed(list(patterns.items())):
        found |= dict.fromkeys(_picked(pattern, names, key), value)
    return found


def _picked(pattern: str, names: Iterable[str], key: str) -> list[str]:
    found = matching(pattern, names)
    if not found:
        raise ConfigError(
            "cannot start training",
            expected="a pattern of modules such as layers.0-9.mlp",
            got=f"{pattern!r}, which matches none",
            where=key,
            fix=f"Modules look like {next(iter(names))}.",
        )
    return found
