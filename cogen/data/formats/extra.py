"""Libraries that only some formats need, from the extra `cogen-ai[formats]`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cogen.errors import DataError


@contextmanager
def needs(library: str, suffix: str) -> Iterator[None]:
    """Around an import: if the library is missing, raise a DataError that says what to install."""
    try:
        yield
    except ImportError as error:
        raise DataError(
            f"cannot read {suffix}",
            expected=f"the library {library} (pip install 'cogen-ai[formats]')",
            got=str(error) or "nothing",
            fix="Install it, or remove such files.",
        ) from None
