"""CO-GEN: federated continual pretraining of small language models by domain experts.

Names are loaded when they are used, so that importing `cogen` costs nothing.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "Adapter",
    "evaluate_adapters",
    "load_base",
    "merge_adapters",
    "prepare_corpus",
    "read_corpus",
    "simulate",
    "train_adapter",
]

_HOMES = {
    "Adapter": "cogen.adapter",
    "evaluate_adapters": "cogen.evaluate.score",
    "load_base": "cogen.base",
    "merge_adapters": "cogen.merge",
    "prepare_corpus": "cogen.train.corpus",
    "read_corpus": "cogen.data",
    "simulate": "cogen.flower.simulate",
    "train_adapter": "cogen.train.single",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cogen' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
