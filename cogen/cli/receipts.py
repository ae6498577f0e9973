"""`cogen receipts`: every message that left a domain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogen.console import print_json, safe

if TYPE_CHECKING:
    from cogen.node.home import NodeHome


def receipts(
    domain: Annotated[
        str | None, typer.Argument(help="A domain that joined from here, where there are several.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="The member's folder, as given to cogen join.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with every array.")] = False,
) -> None:
    """List every message that left this domain.

    Each line has the arrays, bytes and numbers of one message. --json adds sha256 and l2 norms.

    Example: cogen receipts clinical
    """
    from cogen.node.home import NodeHome
    from cogen.node.receipt import read_receipts, receipt_table
    from cogen.node.unusual import warnings_in
    from cogen.node.view import audits_in
    from cogen.runs import read_lines

    home = NodeHome(folder) if folder is not None else _found(domain)
    member = home.read_member()
    lines = read_receipts(home.receipts)
    work = read_lines(home.work)
    total = sum(int(line["num_bytes"]) for line in lines)
    if as_json:
        print_json({"domain": member.domain, "folder": str(home.path), "num_bytes": total, "receipts": lines})
    elif not lines:
        print(f"nothing has left domain {member.domain!r}")
    else:
        print(receipt_table(lines))
        print(f"\n{len(lines)} messages, {total} bytes of arrays · {home.receipts}")
    if not as_json and (unusual := warnings_in(work)):
        print("\nasked beyond the ordinary, each noted before it was answered:")
        print("\n".join(map(safe, unusual)))
    if not as_json and (audits := audits_in(work)):
        print("\naudits of this domain's own adapters, of which no figure leaves:")
        print("\n".join(map(safe, audits)))


def _found(domain: str | None) -> NodeHome:
    """The member's folder of `domain`, or the only one that this user has."""
    from cogen.errors import RunError
    from cogen.node.home import homes

    known = homes()
    fitting = [home for home in known if domain is None or home.read_member().domain == domain]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(str(home.path) for home in known) or "none"
    raise RunError(
        "cannot choose a member",
        expected="one folder" if domain is None else f"one folder of domain {domain!r}",
        got=names if fitting or not known or domain is None else f"none among {names}",
        fix="Name it with --folder.",
    )
