"""A domain's attack on its own adapter before the reply leaves: `max_membership_auc` of `policy.toml`.

The attacker that counts is the coordinator, who has the start of the round and its reply. So the attack is the likelihood
ratio between these two, on windows of the round's text and of documents that no round of the run has reached. That the
adapter fails is all that is sent; the figure stays in `work.jsonl`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cogen.adapter import Factors
from cogen.audit.intervals import MIN_DOCUMENTS
from cogen.audit.membership import membership, score_both
from cogen.audit.record import Membership
from cogen.audit.windows import AuditText, Excerpt, member_windows, trained_blocks, unseen_windows, window_tokens
from cogen.data import tokenize
from cogen.errors import DataError, PolicyError
from cogen.merge.factored import stack
from cogen.node.policy import refused
from cogen.node.round_start import model_digest, split_rank
from cogen.node.stopping import Check
from cogen.node.trainer import Trainer
from cogen.protocol.factors import to_factors
from cogen.protocol.messages import TrainReply, TrainRequest
from cogen.runs import append_line, read_lines
from cogen.train.schedule import plan_round

MAX_WINDOWS = 64
MIN_WINDOWS = 32


@dataclass(frozen=True)
class AuditWindows:
    """Windows that the round trained, and others."""

    members: Sequence[Excerpt]
    others: Sequence[Excerpt]


class OwnAudit:
    """The audit of one round at a joined domain.

    Args:
        limit: largest AUC; 0 audits nothing.
        work: the domain's `work.jsonl`, where every audit has a line.
        key: of the request.
    """

    def __init__(self, limit: float, work: Path, request: TrainRequest, key: str) -> None:
        self.limit, self.work, self.request, self.key = limit, work, request, key
        self._windows: AuditWindows | None = None

    @property
    def is_on(self) -> bool:
        return self.limit > 0.0

    def require_not_failed(self) -> None:
        """Raise PolicyError if this request's adapter has failed already; it need not be trained again."""
        if self.is_on and any(auc > self.limit for auc in self._known(run=self.request.run, key=self.key)):
            raise _failed()

    def windows(self, trainer: Trainer) -> AuditWindows:
        """The windows of the round.

        Raises:
            PolicyError: too few of either kind, or from too few documents, for a figure that means something.
        """
        found = self._windows = self._windows or audit_windows(trainer, self.request.round)
        for some in (found.members, found.others):
            if len(some) < MIN_WINDOWS or len({w.document for w in some}) < MIN_DOCUMENTS:
                raise refused("enough trained and other text for this domain's own audit", "too little")
        return found

    def require(self, trainer: Trainer, reply: TrainReply, check: Check) -> None:
        """Audit the adapter of a reply, and note the figure.

        Raises:
            PolicyError: its AUC is above the limit, or there is too little text to tell.
        """
        digest = model_digest(to_factors(reply.arrays, self.request.settings.train.scaling))
        known = self._known(run=self.request.run, key=self.key, sha256=digest)
        if not known:
            found = own_membership(trainer, self.request, reply, self.windows(trainer), check)
            append_line(self.work, self._line(found, digest), durable=True)
            known = [found.auc.value]
        if known[-1] > self.limit:
            raise _failed()

    def _known(self, **about: str) -> list[float]:
        """The AUC of every earlier audit of this run, request and adapter."""
        found = [line for line in read_lines(self.work) if line.get("action") == "audit"]
        return [float(line["auc"]) for line in found if all(line[key] == value for key, value in about.items())]

    def _line(self, found: Membership, digest: str) -> dict[str, Any]:
        auc, counts = found.auc, {"num_members": found.num_members, "num_others": found.num_others}
        figures = {"auc": auc.value, "low": auc.low, "high": auc.high, "limit": self.limit}
        about = {"action": "audit", "run": self.request.run, "round": self.request.round, "key": self.key}
        return {"time": datetime.now(UTC).isoformat(), **about, "sha256": digest, **figures, **counts}


def audit_windows(trainer: Trainer, round_number: int) -> AuditWindows:
    """Windows of what the round trains, and of documents that no round up to it has reached, held-out ones included.

    Returns: none of either kind where there is no text of one.
    """
    settings, data = trainer.text_settings, trainer.data
    plans = [plan_round(settings, number, trainer.settings.num_rounds) for number in range(1, round_number + 1)]

    def own_blocks(first: int) -> list[int]:
        mixed = range(first, plans[-1].first_block + plans[-1].num_blocks)
        return trained_blocks(settings, 1, mixed, plans[-1].total_blocks)[0]

    size = window_tokens(settings.sequence_length)
    seen = AuditText(data.own, own_blocks(0), tokenize(data.heldout_documents, trainer.base.tokenizer))
    try:
        members = member_windows(AuditText(data.own, own_blocks(plans[-1].first_block), ()), size, MAX_WINDOWS)
        return AuditWindows(members, unseen_windows(seen, size, MAX_WINDOWS))
    except DataError:
        return AuditWindows((), ())


def own_membership(
    trainer: Trainer, request: TrainRequest, reply: TrainReply, windows: AuditWindows, check: Check
) -> Membership:
    """How well the reply tells the round's text from other text of the corpus, compared with the start of the round."""
    scaling = request.settings.train.scaling
    start, trained = to_factors(request.arrays, scaling), to_factors(reply.arrays, scaling)
    _, rest = split_rank(start, trainer.settings.rank, trainer.settings.train.seed + request.round)

    def progress(num_tokens: int) -> None:
        check()

    before = score_both(trainer.base, start, windows.members, windows.others, progress)
    model = _with_rest(trained, rest or {})
    return membership(trainer.base, model, windows.members, windows.others, base_scores=before, progress=progress)


def _with_rest(trained: Mapping[str, Factors], rest: Mapping[str, Factors]) -> dict[str, Factors]:
    """The whole adapter: what was trained, and the directions that were held frozen."""
    return {name: stack([f, rest[name]], [1.0, 1.0]) if name in rest else f for name, f in trained.items()}


def _failed() -> PolicyError:
    return refused("an adapter that passes this domain's own audit", "one that fails it")
