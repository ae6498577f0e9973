"""Runs Flower's `flower-superlink` with two changes, so that it does not grow with the messages that it passes on.

Flower lets each connection of SQLite hold 64 MB of pages, and SuperLink has up to ten that stay: it grew with every
round of 5 MB messages until all were full. The system holds the same pages of the file anyway.

What a request leaves in a cycle is collected often (`cogen.federation.lean`).
"""

from __future__ import annotations

from typing import Any

from cogen.federation.lean import collect_often

PRAGMAS, CACHE, CACHE_KIB = "SQLITE_PRAGMAS", "cache_size", 8192  # a message of 5 MB fits


def be_lean() -> None:
    """Put the size in the place from which Flower takes it; a version without that place is left as it is."""
    from flwr.supercore import sql_mixin

    found: Any = getattr(sql_mixin, PRAGMAS, None)
    if isinstance(found, tuple) and CACHE in dict(found):
        setattr(sql_mixin, PRAGMAS, tuple({**dict(found), CACHE: f"-{CACHE_KIB}"}.items()))


def main() -> None:
    """`python -m server.superlink ARGS`, the arguments of `flower-superlink`."""
    be_lean()
    import flwr.superlink.main  # noqa: F401  - what Flower imports when it starts, so that it is frozen too
    from flwr.superlink.cli.flower_superlink import flower_superlink

    collect_often()
    flower_superlink()


if __name__ == "__main__":
    main()
