"""`cogen nodes`: which domains have joined, which are connected, and what each did last."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cogen.cli.options import FEDERATION, AsJson, Federation
from cogen.console import duration, print_json, table

if TYPE_CHECKING:
    from cogen.deploy.folder import FederationFolder
    from cogen.deploy.members import Member

FRESH_SECONDS = 60.0


def nodes(folder: Federation = FEDERATION, as_json: AsJson = False) -> None:
    """List the domains of a federation and their state.

    A domain is invited, connected, away or revoked. The last column is what it did last.

    Example: cogen nodes
    """
    from cogen.deploy.folder import FederationFolder

    federation = FederationFolder(folder)
    federation.require()
    rows = _rows(federation)
    if as_json:
        print_json({"serving": federation.is_served(), "domains": rows})
        return
    head = ("domain", "state", "enrolled", "last seen", "last did")
    shown = [(r["domain"], r["state"], _day(r["enrolled"]), _ago(r["last_seen"]), r["last_did"] or "") for r in rows]
    print(table([head, *shown], num_left=len(head)))
    if not federation.is_served():
        print("this federation is not being served now (start it with cogen serve)", file=sys.stderr)


def _rows(folder: FederationFolder) -> list[dict[str, Any]]:
    from cogen.config import load_config
    from cogen.deploy.invites import open_invites
    from cogen.deploy.members import all_members

    members, invites, did = all_members(folder.path), open_invites(folder), _last_did(folder)
    serves = folder.is_served()
    names = dict.fromkeys([*(d.name for d in load_config(folder.config).domains), *members])
    rows = []
    for name in names:
        member = members.get(name)
        invited = "invited" if name in invites else "not invited"
        rows.append(
            {
                "domain": name,
                "state": _state(member, serves) if member else invited,
                "enrolled": member.enrolled if member else None,
                "last_seen": member.last_seen if member else None,
                "revoked": member.revoked if member else None,
                "invited_until": invites[name].expires if name in invites else None,
                "last_did": did.get(name),
            }
        )
    return rows


def _state(member: Member, serves: bool) -> str:
    """A member is connected if its node was heard in the last minute: nodes ask for work every few seconds."""
    if member.revoked:
        return "revoked"
    return "connected" if serves and _age_seconds(member.last_seen) < FRESH_SECONDS else "away"


def _last_did(folder: FederationFolder) -> dict[str, str]:
    """Each domain's last event in the newest run."""
    from cogen.runs import RunFolder, read_lines

    runs = [RunFolder(p) for p in (folder.path / "runs").glob("*") if (p / "events.jsonl").is_file()]
    if not runs:
        return {}
    newest = max(runs, key=lambda run: run.events_path.stat().st_mtime)
    found = {}
    for event in read_lines(newest.events_path):
        where = f"{newest.path.name}, round {event.get('round', 0)}"
        if event["event"] == "client_replied":
            found[event["domain"]] = f"{where}: trained {event['num_tokens']} tokens"
        elif event["event"] == "client_dropped":
            found[event["domain"]] = f"{where}: dropped, {event['reason']}"
    return found


def _age_seconds(time: str | None) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds() if time else float("inf")


def _day(time: str | None) -> str:
    return time[:10] if time else ""


def _ago(time: str | None) -> str:
    return f"{duration(_age_seconds(time))} ago" if time else ""
