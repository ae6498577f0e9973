"""`cogen leave`: a domain leaves a federation for good."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogen.console import safe, table

if TYPE_CHECKING:
    from cogen.node.home import Membership, NodeHome
    from cogen.node.leave import Part


def leave(
    domain: Annotated[
        str | None, typer.Argument(help="A domain that joined from here, where there are several.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="The member's folder, as given to cogen join.")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="Remove receipts and settings, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a domain's key and all that was made of its text.

    Receipts, counts and settings stay as the domain's record. The corpus is not touched.
    The coordinator is told nothing: ask for the key to be revoked.

    Example: cogen leave clinical
    """
    from cogen.deploy.join import sole
    from cogen.node.home import NodeHome, home_of
    from cogen.node.leave import parts_of, remove

    home = NodeHome(folder) if folder is not None else home_of(domain)
    parts_of(home)  # no lock is made in a folder that is no member's
    with sole(home, wait_seconds=0.0):
        parts = parts_of(home, everything=everything)
        member = home.read_member() if home.member.is_file() else None
        has_key = home.key.is_file()
        if not parts:
            print(f"nothing is left to remove in {safe(home.path)}", file=sys.stderr)
            return
        print(_plan(parts))
        _confirm(yes)
        remove(home, parts)
    _say_what_is_left(home, member if has_key else None)


def _say_what_is_left(home: NodeHome, member: Membership | None) -> None:
    """What stays on the disk, and what the coordinator of a domain that had a key should do."""
    from cogen.node.leave import record_of

    kept = [path.name for path in record_of(home) if path.is_file()]
    if kept:
        print(f"kept in {safe(home.path)}: {', '.join(kept)} (--everything removes them)", file=sys.stderr)
    if home.path.is_dir() and (others := home.others()):
        print(f"left alone in {safe(home.path)}: {safe(', '.join(others))}", file=sys.stderr)
    if member is not None:
        text = f"tell the coordinator of {member.federation!r}, who can refuse the key: cogen revoke {member.domain}"
        print(safe(text), file=sys.stderr)


def _plan(parts: list[Part]) -> str:
    """What is removed, with its bytes and places."""
    rows = [
        (part.what if first else "", f"{part.num_bytes} bytes" if first else "", str(path))
        for part in parts
        for first, path in zip((True, *(False for _ in part.paths[1:])), part.paths, strict=True)
    ]
    return table(rows, num_left=3)


def _confirm(yes: bool) -> None:
    """Raise ConfigError unless --yes is given or the user agrees."""
    from cogen.errors import ConfigError

    if yes:
        return
    fix = "Nothing was removed."
    if not sys.stdin.isatty():
        raise ConfigError("cannot leave", expected="--yes, or a terminal to ask in", got="neither", fix=fix)
    if not typer.confirm("remove all this?", err=True):
        raise ConfigError("cannot leave", expected="yes", got="no", fix=fix)
