"""What a patch of a foreign library must say of itself, and the check that its place is still there."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from cogen.errors import FederationError

MARK = "patched_by_cogen"


@dataclass(frozen=True)
class Patch:
    """One change to a library that offers no public way to make it.

    Args:
        name: by which programs ask for it.
        changes: what is different when it has been applied.
        reason: why that is needed.
        versions: of the library, for which the patch has been checked.
        places: what it relies on: "module", "module:name" or "module:Class.name". The first one is replaced.
        fits: tells, from the objects in `places`, whether they still have the form that the patch needs.
        make: makes the replacement of the first place from those objects. None: nothing is replaced, only checked.
        has_fallback: the program works without the patch, only slower.
    """

    name: str
    changes: str
    reason: str
    versions: str
    places: tuple[str, ...]
    fits: Callable[..., bool]
    make: Callable[..., Any] | None = None
    has_fallback: bool = False

    @property
    def library(self) -> str:
        """The package that is patched."""
        return self.places[0].split(":")[0].split(".")[0]

    def find(self) -> list[Any]:
        """The objects in the patch's places.

        Raises:
            FederationError: one of them is gone, or has another form.
        """
        found = []
        for place in self.places:
            try:
                found.append(look_up(place))
            except Exception as error:  # noqa: BLE001 - an import can fail in any way; the program needs the place
                raise self._other_version(place, f"{type(error).__name__}: {error}") from None
        if not is_patched(found[0]) and not self._fits(found):
            raise self._other_version(self.places[0], "its form has changed")
        return found

    def apply(self) -> None:
        """Replace the first place; a second call changes nothing.

        Raises:
            FederationError: the place is gone.
        """
        found = self.find()
        if self.make is not None and not is_patched(found[0]):
            owner, name = self.places[0].rsplit("." if "." in self.places[0].partition(":")[2] else ":", 1)
            setattr(look_up(owner), name, self.make(*found))

    def _fits(self, found: list[Any]) -> bool:
        try:
            return self.fits(*found)
        except (AttributeError, TypeError, ValueError):
            return False

    def _other_version(self, place: str, detail: str) -> FederationError:
        return FederationError(
            f"cannot patch {self.library} ({self.name})",
            expected=f"{place} as in {self.library} {self.versions}",
            got=f"another version of {self.library}, {version(self.library)}",
            where=detail,
            fix=f"Install {self.library}{self.versions}.",
        )


def look_up(place: str) -> Any:
    """The object at "module", "module:name" or "module:Class.name"."""
    module, _, path = place.partition(":")
    found: Any = importlib.import_module(module)
    for name in path.split(".") if path else ():
        found = getattr(found, name)
    return found


def mark(replacement: Any) -> Any:
    """The replacement itself, marked, so that it is not patched once more."""
    setattr(replacement, MARK, True)
    return replacement


def is_patched(found: Any) -> bool:
    """Whether the object is a replacement that `mark` has marked."""
    return getattr(found, MARK, False) is True


def takes(function: Any, *names: str) -> bool:
    """Whether the function has parameters of these names."""
    return inspect.isfunction(function) and set(names) <= set(inspect.signature(function).parameters)


def uses(function: Any, name: str) -> bool:
    """Whether the function's code refers to a global or an attribute of this name."""
    return name in inspect.unwrap(function).__code__.co_names
