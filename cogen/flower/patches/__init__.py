"""Every patch of Flower's internals, and every place in them that the project relies on. Programs ask for them by name.

A patch whose place is gone ends the program with one line. Only a faster start has a fallback, which is logged.
"""

from __future__ import annotations

import sys
from typing import Any

from cogen.errors import FederationError
from cogen.flower.patches.coordinator import COORDINATOR_PATCHES
from cogen.flower.patches.domain import DOMAIN_PATCHES
from cogen.flower.patches.local import LOCAL_PATCHES
from cogen.flower.patches.patch import Patch
from cogen.flower.patches.simulation import SIMULATION_PATCHES

PATCHES: dict[str, Patch] = {
    p.name: p for p in (*DOMAIN_PATCHES, *COORDINATOR_PATCHES, *LOCAL_PATCHES, *SIMULATION_PATCHES)
}


def apply(*names: str) -> None:
    """Apply the patches of these names; one that has been applied is left alone.

    Raises:
        FederationError: the place of a patch is gone from the installed version.
    """
    for name in names:
        PATCHES[name].apply()


def apply_or_exit(*names: str) -> None:
    """As `apply`, for a program's start: where a place is gone, the program ends with that one line."""
    try:
        apply(*names)
    except FederationError as error:
        sys.exit(str(error))


def require(name: str) -> list[Any]:
    """The objects that an entry relies on, in the order of its places.

    Raises:
        FederationError: one is gone from the installed version.
    """
    return PATCHES[name].find()


def find_or_log(name: str) -> list[Any] | None:
    """As `require`, for an entry with a fallback: where a place is gone, one line goes to the log, and None returns."""
    assert PATCHES[name].has_fallback, name
    try:
        return require(name)
    except FederationError as error:
        print(f"a slower start: {error}", file=sys.stderr, flush=True)
        return None
