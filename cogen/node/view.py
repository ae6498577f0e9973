"""What `cogen join` shows a domain: what a round would send, and what its programs do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from cogen.adapter import Fingerprint
from cogen.base import BaseInfo
from cogen.console import table
from cogen.node.home import Membership, NodeHome
from cogen.node.policy import Policy, within
from cogen.node.receipt import is_layout
from cogen.node.round_spec import default_round_spec
from cogen.protocol.factors import GATE_ARRAYS, layout_bytes, reply_layout
from cogen.protocol.messages import Figures
from cogen.runs import Tail
from cogen.train.start import select_modules

# Lines that Flower's SuperNode logs.
CONNECTED, AGAIN, LOST = b"SuperNode ID:", b"Connection successful after", b"Connection attempt failed"


class HomeWatcher:
    """Events of a member's folder, in order of arrival: connected, lost, work, step, sent."""

    def __init__(self, home: NodeHome) -> None:
        self.home = home
        self._node = Tail(home.logs / "supernode.log", skip_existing=True)
        self._work = Tail(home.work, skip_existing=True)
        self._sent, self._lost = Tail(home.receipts, skip_existing=True), False
        self._steps = {path: Tail(path, skip_existing=True) for path in self._training_logs()}

    def new(self) -> Iterator[dict[str, Any]]:
        """Events since the last call."""
        for line in self._node.lines():
            if CONNECTED in line or (AGAIN in line and self._lost):
                self._lost = False
                yield {"event": "connected"}
            elif LOST in line and not self._lost:
                self._lost = True
                yield {"event": "lost"}
        for values in filter(None, self._work.records()):
            yield {**values, "event": "work"}
        for path in self._training_logs():
            tail = self._steps.setdefault(path, Tail(path))
            for values in filter(None, tail.records()):
                yield {**values, "event": "step"}
        for values in filter(None, self._sent.records()):
            if not is_layout(values):
                yield {**values, "event": "sent"}

    def _training_logs(self) -> list[Path]:
        return sorted(self.home.path.glob("runs/*/train.jsonl"))


def audits_in(work: Iterable[Mapping[str, Any]]) -> list[str]:
    """The audits of all lines of `work.jsonl`, one line each."""
    return [f"{line['time'][:19]} {audit_text(line)}" for line in work if line.get("action") == "audit"]


def audit_text(line: Mapping[str, Any]) -> str:
    """One audit in words."""
    passed = "sent" if line["auc"] <= line["limit"] else "not sent"
    interval = f"{line['low']:.2f} to {line['high']:.2f}"
    return f"round {line['round']} · own audit: AUC {line['auc']:.3f} ({interval}), up to {line['limit']:g}: {passed}"


def _statistics(policy: Policy) -> list[str]:
    """What a run that makes a routed model would get besides."""
    if not policy.share_gate:
        return []
    return [
        f"of a run that makes a routed model also {' and '.join(GATE_ARRAYS)}, float16, one number a hidden dimension"
    ]


def preview_text(member: Membership, base: BaseInfo, num_train_tokens: int, policy: Policy | None) -> str:
    """What a round would send: one line an array, then numbers, texts and the total bytes; from shapes of the base alone.

    The round is the one of the invite, within the policy.
    """
    policy = policy or Policy()
    settings = within(policy, (member.round or default_round_spec()).train)
    wire = member.round.wire if member.round else "float32"
    layout = reply_layout(select_modules(base.modules, settings), settings.rank, wire)
    said = "" if member.round else " (the invite does not say; these are the defaults)"
    rows = [
        (f"factors/{name}", dtype, " x ".join(map(str, shape)), f"{layout_bytes({name: (dtype, shape)})} bytes")
        for name, (dtype, shape) in layout.items()
    ]
    numbers = [n for n in Figures.model_fields if policy.evaluation_leaves or not n.startswith("bits_per_byte")]
    texts = ["domain", *(field.name for field in fields(Fingerprint))]
    return "\n".join(
        [
            f"a round of domain {member.domain!r} would send, at rank {settings.rank} on"
            f" {sum(name.endswith('.a') for name in layout)} of {len(base.modules)} modules{said}:\n",
            table(rows, num_left=3),
            f"\nnumbers: {', '.join(numbers)}",
            f"texts: {', '.join(texts)} (the base's hashes)",
            f"in all {len(layout)} arrays, {layout_bytes(layout)} bytes",
            *_statistics(policy),
            *_own_audit(policy),
            f"never: the {num_train_tokens} training tokens, file names, paths, text",
            "nothing was sent, and nobody was asked",
        ]
    )


def _own_audit(policy: Policy) -> list[str]:
    """A line about the audit before a reply leaves, where the policy asks for one."""
    limit = policy.max_membership_auc
    told = "tells trained text from other text of this corpus"
    return (
        [f"only if the adapter passes this domain's own audit: it {told} with an AUC up to {limit:g}"] if limit else []
    )
