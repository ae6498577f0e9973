"""The factors that training starts from: which modules, at which rank and scaling."""

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
    """Fresh factors of the modules that `settings` adapts, ranks and alphas by pattern.

    Args:
        modules: name to `(d_out, d_in)` of all linear layers that could be adapted.
        embeddings: likewise, for `train.train_embeddings`.
    Raises:
        ConfigError: a pattern that picks no module.
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
    """Shapes and ranks of what `start_factors` makes, without making it."""
    chosen, _ = _chosen(modules, settings, embeddings)
    ranks = _by_pattern(settings.rank_pattern, chosen, "train.rank_pattern")
    return {name: Layout(*shape, min(ranks.get(name, settings.rank), *shape)) for name, shape in chosen.items()}


def _chosen(
    modules: Mapping[str, tuple[int, int]], settings: Train, embeddings: Mapping[str, tuple[int, int]] | None
) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
    """All that is adapted, and those of it that are embeddings."""
    tables = dict(embeddings or {}) if settings.train_embeddings else {}
    return {**select_modules(modules, settings), **tables}, tables


def require_context(info: BaseInfo, settings: Train) -> None:
    """Refuse blocks longer than the context that the base was made for: it has no positions for the rest.

    Raises:
        ConfigError: says the most that it has.
    """
    if info.max_tokens is not None and settings.sequence_length > info.max_tokens:
        raise ConfigError(
            "cannot start training",
            expected=f"train.sequence_length of at most {info.max_tokens}, the context of base {info.name}",
            got=str(settings.sequence_length),
            fix="Lower train.sequence_length, or take another base.",
        )


def select_modules(modules: Mapping[str, tuple[int, int]], settings: Train) -> dict[str, tuple[int, int]]:
    """The modules that `train.target_modules` picks, in the order of `modules`.

    Raises:
        ConfigError: a pattern that picks none.
    """
    if settings.target_modules is None:
        return dict(modules)
    picked = {name for pattern in settings.target_modules for name in _picked(pattern, modules, "train.target_modules")}
    return {name: shape for name, shape in modules.items() if name in picked}


def _by_pattern(patterns: Mapping[str, Value], names: Iterable[str], key: str) -> dict[str, Value]:
    """Values by module; the first pattern that fits a module wins, as in PEFT."""
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
            got=f"{pattern!r}, which picks none",
            where=key,
            fix=f"Modules look like {next(iter(names))}.",
        )
    return found
