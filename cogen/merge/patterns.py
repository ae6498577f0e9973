"""Patterns that pick modules by name, such as `layers.0-9.*`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

RANGE = re.compile(r"^(\d+)-(\d+)$")


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that contain the parts of the pattern one after another, separated by dots.

    A part is a name, a glob (`q_*`), a range of numbers (`0-9`, both ends included) or `*`. Examples are `mlp`,
    `layers.0-9` and `layers.0-9.*.down_proj`.

    >>> matching("layers.0-9.mlp", ["model.layers.3.mlp.up_proj", "model.layers.11.mlp.up_proj"])
    ['model.layers.3.mlp.up_proj']
    """
    wanted = pattern.split(".")
    return [name for name in names if _occurs(wanted, name.split("."))]


def _occurs(wanted: list[str], parts: list[str]) -> bool:
    starts = range(len(parts) - len(wanted) + 1)
    return any(all(map(_fits, wanted, parts[i : i + len(wanted)])) for i in starts)


def _fits(wanted: str, part: str) -> bool:
    if limits := RANGE.match(wanted):
        return part.isdecimal() and int(limits[1]) <= int(part) <= int(limits[2])
    return fnmatchcase(part, wanted)
