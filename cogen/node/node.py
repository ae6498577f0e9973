"""One domain: it answers the coordinator's messages. The same class serves a simulation and a real federation.

In a simulation the run folder holds the domain's files, and everything is allowed. In a real federation the member's
folder (`NodeHome`) holds them, and its policy decides (`cogen.node.member`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.adapter import Adapter, Factors
from cogen.config import load_config
from cogen.evaluate.matrix import EXPERT_PREFIX
from cogen.node.domain_settings import DomainSettings, settings_of_run
from cogen.node.home import JoinedDomain, NodeHome
from cogen.node.policy import read_policy
from cogen.node.score_book import Scorer, score_always
from cogen.node.stopping import Check, go_on
from cogen.protocol.factors import gate_arrays, to_arrays, to_factors
from cogen.protocol.messages import (
    EvaluateReply,
    EvaluateRequest,
    Figures,
    HelloReply,
    Reply,
    Request,
    Score,
    SuspendReply,
    SuspendRequest,
    TrainReply,
    TrainRequest,
    WorkRequest,
)
from cogen.records import Table
from cogen.runs import RunFolder, append_line
from cogen.versions import versions

if TYPE_CHECKING:
    from cogen.node.trainer import Trainer

MANY = 1_000_000
Models = dict[str, Mapping[str, Factors]]


class Site(Table):
    """What a domain has, and what never leaves it."""

    domain: str
    data: str
    """The corpus: a file, a folder, or hf://datasets/OWNER/NAME."""
    base: str
    """The base model: a folder, a hub id, or a known name."""


class Node:
    """A domain at work.

    Args:
        home: the member's folder; None in a simulation.
    """

    def __init__(self, site: Site, home: NodeHome | None = None) -> None:
        self.site, self.home = site, home
        self._trainer: Trainer | None = None

    def answer(self, request: Request, check: Check = go_on) -> Reply:
        """The reply to a request.

        Args:
            check: called at every step; what it raises stops the work.
        Raises:
            PolicyError: the policy forbids it.
            CogenError: the work failed.
        """
        if isinstance(request, TrainRequest | EvaluateRequest):
            return self._work(request, check)
        return self.suspend(request) if isinstance(request, SuspendRequest) else self.hello()

    def hello(self) -> HelloReply:
        """The domain and its limits. A simulated domain has none."""
        if self.home is None:
            return HelloReply(domain=self.site.domain, shares_expert=True, max_shared_experts=MANY, shares_gate=True)
        policy = read_policy(self.home.policy)
        return HelloReply(
            domain=self.site.domain,
            max_rank=policy.max_rank,
            max_tokens_per_round=policy.max_tokens_per_round,
            evaluates=policy.evaluate and policy.evaluation_leaves,
            shares_expert=policy.share_expert,
            max_shared_experts=policy.max_shared_experts,
            shares_gate=policy.share_gate,
            version=versions()["cogen-ai"],
        )

    def suspend(self, request: SuspendRequest) -> SuspendReply:
        """Note for `cogen join` that the domain is not asked again. Only numbers are noted, no text of the coordinator."""
        if self.home is not None:
            numbers = {"round": request.round, "num_failures": request.num_failures}
            append_line(self.home.work, {"action": "suspend", **numbers})
        return SuspendReply(domain=self.site.domain)

    def _work(self, request: WorkRequest, check: Check) -> TrainReply | EvaluateReply:
        """Train a round or score models."""
        if self.home is not None:
            from cogen.node.member import work_as_member

            return work_as_member(self, self.home, request, check)
        run = RunFolder(request.run)
        trainer = self.trainer_for(request, run.node(self.site.domain), settings_of_run(load_config(run.config)))
        if isinstance(request, TrainRequest):
            return train_reply(trainer, request, score_always, check)
        models = models_of(request)
        models |= {name: Adapter.load(run.expert(self.site.domain)).factors for name, f in models.items() if not f}
        return evaluate_reply(trainer, models, score_always, check)

    def trainer_for(
        self, request: WorkRequest, folder: Path, own: DomainSettings, joined: JoinedDomain | None = None
    ) -> Trainer:
        """The trainer of a run; a new one when the run or any settings have changed."""
        from cogen.node.trainer import Trainer

        site, about = self.site, (folder, request.settings, own, joined)
        known = self._trainer
        if known is None or about != (known.folder, known.settings, known.own, known.joined):
            self._trainer = Trainer(request.settings, own, site.domain, site.data, site.base, folder, joined)
        assert self._trainer is not None
        return self._trainer


def train_reply(trainer: Trainer, request: TrainRequest, scorer: Scorer, check: Check) -> TrainReply:
    """Train a round; its reply."""
    start = to_factors(request.arrays, request.settings.train.scaling)
    trained = trainer.train(request.round, start, scorer, check, request.visit)
    figures = Figures(
        num_tokens=trained.num_tokens,
        seconds=round(trained.seconds, 4),
        bits_per_byte_before=trained.bits_per_byte_before,
        bits_per_byte_after=trained.bits_per_byte_after,
    )
    arrays = to_arrays(trained.factors, wire=request.settings.wire)
    gate_tokens = None
    if request.settings.gate:
        statistics = trainer.gate_statistics(request.round)
        gate_tokens, arrays = statistics.num_tokens, {**arrays, **gate_arrays(statistics)}
    return TrainReply(
        domain=trainer.domain,
        fingerprint=trainer.base.info.fingerprint,
        figures=figures,
        gate_tokens=gate_tokens,
        arrays=arrays,
    )


def evaluate_reply(
    trainer: Trainer, models: Mapping[str, Mapping[str, Factors]], scorer: Scorer, check: Check
) -> EvaluateReply:
    """Score the base and the models; the reply."""
    scores = {
        name: Score(bits_per_byte=cell.bits_per_byte, num_bytes=cell.num_bytes, num_tokens=cell.num_tokens)
        for name, cell in trainer.evaluate(models, scorer, check).items()
    }
    return EvaluateReply(domain=trainer.domain, scores=scores)


def models_of(request: EvaluateRequest) -> Models:
    """The models of a request by name; one that came without arrays is empty."""
    scaling = request.settings.train.scaling
    return {name: to_factors(request.arrays, scaling, f"{name}/") for name in request.models}


def own_expert(domain: str) -> str:
    """The name of a domain's own adapter in a request."""
    return EXPERT_PREFIX + domain
