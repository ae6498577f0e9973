"""What a round may ask of a domain: bounds that keep its text from being read out of the reply.

A reply is a sum of optimizer steps at low rank. Where it is a sum of few tokens, or where one step outweighs the others,
the tokens can be computed from it. `docs/threat-model.md` has the argument; the bounds are keys of `policy.toml`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cogen.config import RunConfig, Train
from cogen.data.store import Prepared
from cogen.errors import PolicyError
from cogen.merge.patterns import matching
from cogen.node.policy import Policy, refused
from cogen.protocol.messages import TrainRequest
from cogen.protocol.settings import work_settings
from cogen.train.schedule import RoundPlan, Visit, learning_rate, plan_round

MOST_STEPS = 1_000_000
MOST_HEAD_TOKENS = 8192  # whose logits take 1.6 GB of memory with a vocabulary of 49,152 tokens


def allow_round(policy: Policy, request: TrainRequest) -> None:
    """Raise PolicyError if the settings of a round are beyond the policy."""
    settings = request.settings
    train = settings.train
    for key in ("replay", "annealing"):
        if getattr(train, key) is not None:
            raise refused(f"no train.{key}: what is mixed in is this domain's own choice", "a corpus")
    if not 1 <= request.round <= settings.num_rounds:
        raise refused(f"a round from 1 to {settings.num_rounds}, as the settings say", str(request.round))
    if settings.gate and not policy.share_gate:
        raise refused("no statistics of this domain's text for a gate", "a round with them")
    if not policy.share_expert and request.visit is not None:
        raise refused("rounds side by side: in a relay this domain's adapter is sent to the next one", "a visit")
    if policy.fresh_starts and request.visit is not None and request.visit.first_step > 0:
        raise refused("a visit that begins from fresh factors", "one after another domain's")
    if policy.fresh_starts and settings.num_rounds > 1:
        raise refused("a run of one round, which begins from fresh factors", f"one of {settings.num_rounds} rounds")
    _allow_amounts(policy, train, settings.rank)
    _allow_optimizer(policy, train)
    plan = plan_round(train, request.round, settings.num_rounds, request.visit)
    _at_most("steps a round", MOST_STEPS, plan.num_steps)
    if (steps := effective_steps(train, plan)) < policy.min_steps:
        got = f"{plan.num_steps}, which by their learning rates count as {steps:.3g}"
        raise refused(f"a round of at least {policy.min_steps:g} steps", got)
    _allow_modules(policy, request.arrays)


def _allow_amounts(policy: Policy, train: Train, rank: int) -> None:
    """Rank, and tokens of a round and of a step."""
    step = train.batch_size * train.sequence_length
    _at_most("a rank", policy.max_rank or math.inf, rank)
    _at_most("tokens a round", policy.max_tokens_per_round or math.inf, train.tokens_per_round)
    _at_least("tokens a round", policy.min_tokens_per_round, train.tokens_per_round)
    _at_most("tokens an optimizer step", policy.max_tokens_per_step or math.inf, step)
    _at_least("tokens an optimizer step", policy.min_tokens_per_step, step)
    _at_most("train.head_chunk_tokens", MOST_HEAD_TOKENS, train.head_chunk_tokens)


def _allow_optimizer(policy: Policy, train: Train) -> None:
    _at_most("train.learning_rate", policy.max_learning_rate or math.inf, train.learning_rate)
    _at_least("a scaling of B @ A", policy.min_scaling, train.scaling)
    _at_most("a scaling of B @ A", policy.max_scaling or math.inf, train.scaling)
    _at_most("train.weight_decay", policy.max_weight_decay or math.inf, train.weight_decay)
    _at_least("train.max_grad_norm", policy.min_grad_norm, train.max_grad_norm)


def _allow_modules(policy: Policy, arrays: Mapping[str, Any]) -> None:
    """Only layers of the policy are trained; which ones a round trains is said by the names of its arrays."""
    if not policy.target_modules:
        return
    asked = {name.rpartition(".")[0] for name in arrays}
    allowed = {name for pattern in policy.target_modules for name in matching(pattern, asked)}
    if asked - allowed:
        got = f"{len(asked - allowed)} other layers"
        raise refused(f"adapters of the layers {', '.join(policy.target_modules)}", got)


def effective_steps(train: Train, plan: RoundPlan) -> float:
    """The steps of a round, each counted by its weight in the result, relative to the largest.

    Step t moves the factors by its learning rate, and every later step s shrinks that by 1 - lr_s * weight_decay. So its
    weight is w_t = lr_t * prod_{s > t} (1 - lr_s * weight_decay), and the round has sum(w) / max(w) steps.
    """
    rates = [abs(learning_rate(train, plan.first_step + i, plan.total_steps)) for i in range(plan.num_steps)]
    weights, kept = [], 1.0
    for rate in reversed(rates):
        weights.append(rate * kept)
        kept *= max(0.0, 1.0 - rate * train.weight_decay)
    return sum(weights) / largest if (largest := max(weights)) > 0 else 0.0


def _at_most(what: str, limit: float, got: float) -> None:
    if not got <= limit:
        raise refused(f"{what} up to {limit:g}", f"{got:g}")


def _at_least(what: str, limit: float, got: float) -> None:
    if not got >= limit:
        raise refused(f"{what} of at least {limit:g}", f"{got:g}")


def refused_by_default(config: RunConfig) -> str:
    """What the default policy refuses of a round that `config` asks for; empty where it refuses nothing."""
    is_relay = config.federation.schedule == "relay" and len(config.domains) > 1
    second = Visit(first_step=1, total_steps=2 * MOST_STEPS) if is_relay else None
    for domain in config.domains:
        try:
            allow_round(Policy(), TrainRequest(run="0", round=1, settings=work_settings(config, domain), visit=second))
        except PolicyError as error:
            return error.reason
    return ""


def shortfalls(policy: Policy, prepared: Prepared, trained_starts: str) -> list[str]:
    """In one line each, why the domain's own policy lets no figure leave or no round be trained.

    Args:
        trained_starts: of the invite's `RoundSpec`.
    """
    lines, held, few = [], prepared.card.heldout, policy.min_scored_documents
    if held.num_tokens < policy.min_scored_tokens or held.num_documents < few:
        lines.append(
            f"no score will leave: held out are {held.num_tokens} tokens of {held.num_documents} documents, and"
            f" policy.toml asks for {policy.min_scored_tokens} of {few}; raise heldout_frac in domain.toml"
        )
    if prepared.num_train_tokens < policy.min_tokens_per_round:
        lines.append(
            f"no round will be trained: {prepared.num_train_tokens} training tokens, and policy.toml asks for"
            f" {policy.min_tokens_per_round}; add documents"
        )
    if policy.fresh_starts and trained_starts:
        lines.append(f"no round will be trained: {rounds_refused(trained_starts)}")
    return lines


def rounds_refused(trained_starts: str) -> str:
    """Why a policy with `fresh_starts` does not train these rounds, and what would allow them."""
    return (
        f"a run is {trained_starts}; policy.toml allows one round from fresh factors alone, because crafted ones can make"
        " tokens of your text readable; fresh_starts = false allows others, and a relay needs share_expert = true as well"
    )
