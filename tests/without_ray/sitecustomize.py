"""Hides Ray from every Python process that has this folder in PYTHONPATH, as where it is not installed."""

from __future__ import annotations

from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

find = PathFinder.find_spec


def find_spec(name: str, *more: Any, **named: Any) -> ModuleSpec | None:
    """As Python finds modules, but no Ray."""
    return None if name == "ray" else find(name, *more, **named)


PathFinder.find_spec = staticmethod(find_spec)  # type: ignore[method-assign, assignment]
