"""The work of `cogen nodes` and `cogen revoke`, imported only when they run."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cogen.cli.show import duration, print_json
from cogen.config import load_config
from cogen.deploy.folder import FederationFolder
from cogen.deploy.invites import open_invites
from cogen.deploy.members import Member, all_members, revoke_member
from cogen.errors import FederationError
from cogen.flower.superlink_client import SuperLinkClient
from cogen.runs import RunFolder, read_lines

FRESH_SECONDS = 60.0


def run_nodes(place: Path, *, as_json: bool) -> None:
    """One row a domain; without a running `cogen serve` nobody is connected."""
    folder = FederationFolder(place)
    folder.require()
    rows = _rows(folder)
    if as_json:
        print_json({"serving": folder.is_served(), "domains": rows})
        return
    head = ("domain", "state", "enrolled", "last seen", "last did")
    shown = [(r["domain"], r["state"], _day(r["enrolled"]), _ago(r["last_seen"]), r["last_did"] or "") for r in rows]
    widths = [max(len(str(row[i])) for row in (head, *shown)) for i in range(len(head))]
    for row in (head, *shown):
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not folder.is_served():
        print("nobody serves this federation now (cogen serve)", file=sys.stderr)


def run_revoke(domain: str, place: Path) -> None:
    """The gateway refuses the key from here on; SuperLink forgets the node, now or at the next start of cogen serve."""
    folder = FederationFolder(place)
    folder.require()
    member = revoke_member(folder.path, domain)
    print(f"revoked {domain}: its key is refused from now on", file=sys.stderr)
    if folder.is_served():
        try:
            SuperLinkClient(folder.flwr_home, folder.logs).unregister(member.node_id)
        except FederationError as error:
            print(f"Flower keeps node {member.node_id}, which cannot reach it: {error}", file=sys.stderr)


def _rows(folder: FederationFolder) -> list[dict[str, Any]]:
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
    """Connected is who was heard in the last minute: a node waits for work at most some seconds at a time."""
    if member.revoked:
        return "revoked"
    return "connected" if serves and _age_seconds(member.last_seen) < FRESH_SECONDS else "away"


def _last_did(folder: FederationFolder) -> dict[str, str]:
    """Each domain's last event in the newest run."""
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
