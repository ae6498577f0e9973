"""The work of `cogen receipts`, imported only when it runs."""

from __future__ import annotations

from pathlib import Path

from cogen.cli.show import print_json
from cogen.errors import RunError
from cogen.node.home import NodeHome, homes
from cogen.node.receipt import read_receipts, receipt_table


def run_receipts(domain: str | None, folder: Path | None, *, as_json: bool) -> None:
    """Find the member's folder and print its receipts."""
    home = NodeHome(folder) if folder is not None else _found(domain)
    member = home.read_member()
    lines = read_receipts(home.receipts)
    total = sum(int(line["num_bytes"]) for line in lines)
    if as_json:
        print_json({"domain": member.domain, "folder": str(home.path), "num_bytes": total, "receipts": lines})
    elif not lines:
        print(f"nothing has left domain {member.domain!r}")
    else:
        print(receipt_table(lines))
        print(f"\n{len(lines)} messages, {total} bytes of arrays · {home.receipts}")


def _found(domain: str | None) -> NodeHome:
    """The one member's folder of this user, or the one of `domain`."""
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
