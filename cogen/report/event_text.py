"""An event of a run as a readable line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cogen.report.units import byte_size, count, decimals, duration


def describe(event: Mapping[str, Any]) -> str:
    """What happened, in a few words; an event of an unknown kind is shown with its values.

    >>> describe({"event": "round_started", "round": 2})
    'round 2 began'
    """
    name = str(event.get("event"))
    sentences: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "run_started": _run_started,
        "round_costs": _round_costs,
        "round_started": lambda e: f"round {e['round']} began",
        "visit_started": lambda e: f"visit {e['visit']} of the round went to {e['domain']}",
        "visit_postponed": lambda e: f"{e['domain']} was passed over, to be visited later: {e['reason']}",
        "client_replied": _replied,
        "client_dropped": _dropped,
        "client_retried": lambda e: f"{e['domain']} got its request again: its node is back",
        "client_suspended": lambda e: f"{e['domain']} was suspended: {e['reason']}",
        "client_registry": _registry,
        "reply_rejected": lambda e: f"a reply was rejected: {e['reason']}",
        "round_finished": _round_finished,
        "round_chosen": lambda e: f"the adapter of round {e['round']} is the best on the domains' text",
        "routed": _routed,
        "evaluated": lambda e: f"{count(e['num_cells'])} cells were scored",
        "run_finished": lambda e: f"the run finished after {duration(e['seconds'])}",
        "run_failed": lambda e: f"the run failed: {e['reason']}",
        "seed_started": lambda e: f"seed {e['seed']} began, {e['number']} of {e['num_seeds']}",
        "seed_finished": lambda e: f"seed {e['seed']} was scored after {duration(e['seconds'])}",
        "seed_summary_failed": lambda e: f"scoring the run failed: {e['reason']}",
        "baseline_started": lambda e: f"the baseline {e['baseline']} began to train",
        "baseline_trained": lambda e: f"the baseline {e['baseline']} is trained: {count(e['num_tokens'])} tokens",
        "baseline_failed": lambda e: f"the baseline {e['baseline']} was dropped: {e['reason']}",
    }
    try:
        return sentences[name](event) if name in sentences else _plain(name, event)
    except (KeyError, TypeError, ValueError, AttributeError):
        return _plain(name, event)


def _run_started(event: Mapping[str, Any]) -> str:
    how = "resumed" if event.get("resumed") else "started"
    return f"the run {how}: {len(event['domains'])} domains, {event['num_rounds']} round(s), base {event['base']}"


def _round_costs(event: Mapping[str, Any]) -> str:
    most = max(cost["peak_memory_bytes"] for cost in event["domains"].values())
    return f"a round takes about {byte_size(most)} of memory on a machine like the coordinator's"


def _registry(event: Mapping[str, Any]) -> str:
    there = f"connected: {', '.join(client['domain'] for client in event['clients']) or 'no domain'}"
    missing = "; ".join(f"{domain}: {reason}" for domain, reason in event["missing"].items())
    return f"{there}; missing: {missing}" if missing else there


def _routed(event: Mapping[str, Any]) -> str:
    there = f"the routed model has {', '.join(event['domains']) or 'no expert'}"
    missing = "; ".join(f"{domain}: {reason}" for domain, reason in event["missing"].items())
    return f"{there}; missing: {missing}" if missing else there


def _replied(event: Mapping[str, Any]) -> str:
    took = f"{count(event['num_tokens'])} tokens in {duration(event['seconds'])}, {byte_size(event['bytes_up'])} sent"
    before, after = event.get("bits_per_byte_before"), event.get("bits_per_byte_after")
    bits = "" if before is None or after is None else f", {decimals(before)} → {decimals(after)} bits per byte"
    return f"{event['domain']} replied: {took}{bits}"


def _dropped(event: Mapping[str, Any]) -> str:
    where = f" from round {event['round']}" if event["round"] else ""
    return f"{event['domain']} was dropped{where}: {event['reason']}"


def _round_finished(event: Mapping[str, Any]) -> str:
    clients = f"{event['num_valid']} of {event['num_clients']} clients"
    return f"round {event['round']} finished: {clients}, {duration(event['seconds'])}"


def _plain(name: str, event: Mapping[str, Any]) -> str:
    rest = [f"{key} {value}" for key, value in event.items() if key not in ("time", "event")]
    return " · ".join([name.replace("_", " "), *rest])
