"""How a joined domain does its work: its policy decides, what it did is counted, and replies are kept.

The order matters. What a request asks is compared with the policy first. What costs something, or would tell something, is
written down before it begins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from cogen.adapter import Factors, factor_digest
from cogen.node.domain_settings import private_seed, read_domain_settings
from cogen.node.home import JoinedDomain, NodeHome
from cogen.node.known_models import BASE_DIGEST, KnownModels
from cogen.node.node import Node, evaluate_reply, models_of, own_expert, train_reply
from cogen.node.own_audit import OwnAudit
from cogen.node.policy import Policy, allow, read_policy, refused
from cogen.node.replies import keep_reply, load_reply, request_key
from cogen.node.round_bounds import allow_round
from cogen.node.round_start import model_digest
from cogen.node.score_book import ScoreBook, rounded
from cogen.node.starts import require_fresh, require_moderate
from cogen.node.stopping import Check, stop_after
from cogen.node.trainer import Trainer
from cogen.node.unusual import unusual_round, unusual_scoring, warning
from cogen.node.usage import Usage
from cogen.protocol.factors import layout_bytes, reply_layout, to_factors
from cogen.protocol.messages import EvaluateReply, EvaluateRequest, TrainReply, TrainRequest, WorkRequest
from cogen.runs import append_line


def work_as_member(node: Node, home: NodeHome, request: WorkRequest, check: Check) -> TrainReply | EvaluateReply:
    """Train a round or score models as far as the policy of `home` allows.

    Raises:
        PolicyError: it forbids it.
    """
    work = _MemberWork(node, home, request)
    check = stop_after(work.policy.max_seconds, check)
    return work.train(request, check) if isinstance(request, TrainRequest) else work.evaluate(request, check)


class _MemberWork:
    """One request at a joined domain."""

    def __init__(self, node: Node, home: NodeHome, request: WorkRequest) -> None:
        self.node, self.home = node, home
        self.policy = read_policy(home.policy)
        self.folder = home.run(request.run)
        self.request, self.member = request, home.read_member()
        allow(self.policy, request.kind, self.member.base_name)
        self.usage = Usage(home.usage, home.receipts)
        self.known = KnownModels(self.folder / "models.jsonl")
        self.key, self.replies = request_key(request), self.folder / "replies"

    def train(self, request: TrainRequest, check: Check) -> TrainReply:
        """Train a round, or give the reply again that this request had before."""
        self._warn(unusual_round(request, self.member, self.policy))
        allow_round(self.policy, request)
        self._allow_bytes(_reply_bytes(request))
        audit = OwnAudit(self.policy.max_membership_auc, self.home.work, request, self.key)
        audit.require_not_failed()
        kept = load_reply(self.replies, self.key, TrainReply)
        reply = kept or self._train(request, audit, check)
        if audit.is_on:
            audit.require(self._trainer(request), reply, check)
        if kept is None:
            keep_reply(self.replies, self.key, reply)
        digest = model_digest(to_factors(reply.arrays, request.settings.train.scaling))
        self.known.add("own", digest, request.round, self.key)
        if self.policy.evaluation_leaves:
            return reply
        kept_here = {"bits_per_byte_before": None, "bits_per_byte_after": None}
        return reply.model_copy(update={"figures": reply.figures.model_copy(update=kept_here)})

    def _train(self, request: TrainRequest, audit: OwnAudit, check: Check) -> TrainReply:
        run_key = hashlib.sha256(f"{request.run} {self.key}".encode()).hexdigest()
        count_key = self.usage.count_key(run_key)
        _allow_rounds(self.policy, self.usage, count_key)
        trainer = self._trainer(request)
        start = to_factors(request.arrays, request.settings.train.scaling)
        self._allow_start(trainer, request, start)
        trainer.require_text(self.policy, request.round)
        if audit.is_on:
            audit.windows(trainer)  # with too little text the round would be trained in vain
        self.usage.begin("round", count_key)
        self.known.add("start", factor_digest(start), request.round)
        self._tell(request)
        book = ScoreBook(self.policy, self.usage, trainer.base.precision, "round")
        reply = train_reply(trainer, request, book, check)
        figures = reply.figures.model_copy(update={"seconds": rounded(reply.figures.seconds)})
        reply = reply.model_copy(update={"figures": figures})
        self.usage.finish(run_key)
        return reply

    def _allow_start(self, trainer: Trainer, request: TrainRequest, start: Mapping[str, Factors]) -> None:
        """Raise PolicyError unless a round may begin from these factors."""
        if not start:
            raise refused("a start with an adapter of one layer or more", "none")
        trainer.require_small(start, self.policy.max_adapter_norm)
        require_moderate(start)
        if self.policy.fresh_starts:
            require_fresh(start, request.settings.train.seed)
        self.known.require_one_start(factor_digest(start), request.round)

    def evaluate(self, request: EvaluateRequest, check: Check) -> EvaluateReply:
        """Score the base and the models of the request, or give the reply again that this request had before."""
        if (known := load_reply(self.replies, self.key, EvaluateReply)) is not None:
            return known
        trainer = self._trainer(request)
        models = models_of(request)
        for name, factors in models.items():
            if factors:
                trainer.require_small(factors, self.policy.max_adapter_norm)
                require_moderate(factors)
            else:
                models[name] = self._own(name, request)
        digests = {name: model_digest(factors) for name, factors in models.items()}
        self._warn(unusual_scoring(digests, self.known, self.usage, self.policy))
        book = ScoreBook(self.policy, self.usage, trainer.base.precision, "scoring")
        book.require([BASE_DIGEST, *digests.values()], trainer.data.heldout)
        for name, digest in digests.items():
            self.known.admit(name, digest, self.policy.max_shared_experts)
        self._tell(request)
        reply = evaluate_reply(trainer, models, book, check)
        keep_reply(self.replies, self.key, reply)
        return reply

    def _own(self, name: str, request: EvaluateRequest) -> Mapping[str, Factors]:
        """The adapter that this domain itself sent last in the run."""
        if name != own_expert(self.node.site.domain):
            raise refused("the arrays of every model but this domain's own", "a model without arrays")
        key = self.known.own_reply()
        reply = None if key is None else load_reply(self.replies, key, TrainReply)
        if reply is None:
            raise refused("a run in which this domain has an adapter of its own", "one without it, or it is gone")
        return to_factors(reply.arrays, request.settings.train.scaling)

    def _trainer(self, request: WorkRequest) -> Trainer:
        own = read_domain_settings(self.home.settings)
        private = self.policy.private_order
        seed = private_seed(self.home.order, request.run, request.settings) if private else None
        joined = JoinedDomain(self.home.prepared, self.member.fingerprint, seed)
        return self.node.trainer_for(request, self.folder, own, joined)

    def _allow_bytes(self, num_bytes: int) -> None:
        """Raise PolicyError if the reply would be beyond the bytes of a day."""
        limit, total = self.policy.max_bytes_up_per_day, self.usage.bytes_sent() + num_bytes
        if limit and total > limit:
            raise refused(f"up to {limit} bytes a day", f"{total} with this reply")

    def _warn(self, lines: list[str]) -> None:
        """Note for `cogen join` and `cogen receipts` what is unusual in the request, before it is answered."""
        if lines:
            append_line(self.home.work, warning(self.request.run, self.request.round, lines))

    def _tell(self, request: WorkRequest) -> None:
        """Note for `cogen join` that the work begins."""
        append_line(self.home.work, {"action": request.kind, "run": request.run, "round": request.round})


def _allow_rounds(policy: Policy, usage: Usage, key: str) -> None:
    """Raise PolicyError if the round would be one more than a day has."""
    limit, begun = policy.max_rounds_per_day, usage.begun("round")
    if limit and len(begun | {key}) > limit:
        raise refused(f"up to {limit} rounds a day", f"one more than the {len(begun)} of the last 24 hours")


def _reply_bytes(request: TrainRequest) -> int:
    """Bytes of the factors that the reply will hold, from the shapes of the global ones."""
    shapes: Mapping[str, tuple[int, ...]] = {name: array.shape for name, array in request.arrays.items()}
    modules = {n[:-2]: (shapes[f"{n[:-2]}.b"][0], shape[1]) for n, shape in shapes.items() if n.endswith(".a")}
    num_bytes = layout_bytes(reply_layout(modules, request.settings.rank, request.settings.wire))
    return num_bytes + (4 * max(d_in for _, d_in in modules.values()) if request.settings.gate and modules else 0)
