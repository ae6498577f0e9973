"""From client updates to the new global factors: their weighted mean, exact until it is cut to the server's rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from cogen.adapter import Factors
from cogen.base import BaseInfo
from cogen.config import RunConfig
from cogen.merge.client_updates import TrainedFactors, updates
from cogen.merge.factored import energy_of, revive
from cogen.merge.procrustes import procrustes_align
from cogen.merge.robust import Robust, Weighed, inner_products, weigh
from cogen.merge.rule import Rule
from cogen.merge.server_step import ServerOptimizer, ServerState, server_step
from cogen.parallel import in_parallel
from cogen.train.lora import init_factors, module_seed
from cogen.train.start import select_modules
from server.replies import ClientUpdate


@dataclass(frozen=True)
class Aggregated:
    """The new global factors, and how they were made.

    Args:
        weights: of each client update. 0 means dropped; the sum is 1 unless updates were clipped.
        energy_cut_frac: share of the energy that the cut lost. states: of the server optimiser.
        norms: of the client updates, if a robust rule measured them.
    """

    factors: dict[str, Factors]
    weights: list[float]
    energy_cut_frac: float
    states: dict[str, ServerState] = field(default_factory=dict)
    norms: list[float] = field(default_factory=list)


def first_global(base: BaseInfo, config: RunConfig) -> dict[str, Factors]:
    """The shared starting point: it does not change the base, and every client can train it."""
    modules = select_modules(base.modules, config.train)
    return init_factors(modules, config.server_rank, config.train.scaling, config.train.seed)


def aggregate(
    config: RunConfig,
    current: Mapping[str, Factors],
    replies: Sequence[ClientUpdate],
    round_number: int,
    states: Mapping[str, ServerState] | None = None,
) -> Aggregated:
    """One step of the server optimiser on the mean client update, cut to the server's rank.

    Empty directions are drawn again (A random, B zero), so that every client can train all of them in the next round.
    """
    weighed = _weighed(config, current, replies)
    used = [(r, s) for r, w, s in zip(replies, weighed.weights, weighed.scales, strict=True) if w > 0]
    weights = [w for w in weighed.weights if w > 0]
    optimizer, rule = _optimizer(config), _rule(config)
    asked_ranks = [config.rank_of(d) for d in config.domains]

    def step(name: str) -> tuple[Factors, ServerState, float, float]:
        now = current[name]
        rank, seed = min(config.server_rank, *now.shape), module_seed(config.train.seed + round_number, name)
        state = (states or {}).get(name)
        trained = [_trained_factors(r, name, scale) for r, scale in used]
        borders = [*asked_ranks, *(r.factors[name].rank for r in replies)]
        made, next_state = server_step(now, trained, weights, rank, optimizer, state, rule, seed)
        fresh = revive(made.factors, rank, torch.Generator().manual_seed(seed))
        turned = procrustes_align(fresh, now, borders) if config.federation.align_factors else fresh
        return turned, next_state, made.energy_cut_frac, energy_of(made.singular_values)

    factors: dict[str, Factors] = {}
    after: dict[str, ServerState] = {}
    cut = total = 0.0
    for name, (made, state, lost_frac, energy) in zip(current, in_parallel(step, list(current)), strict=True):
        factors[name], after[name] = made, state
        cut, total = cut + lost_frac * energy, total + energy
    effective = [w * scale for w, scale in zip(weighed.weights, weighed.scales, strict=True)]
    return Aggregated(factors, effective, cut / total if total > 0 else 0.0, after, weighed.norms)


def _trained_factors(reply: ClientUpdate, name: str, scale: float) -> Factors | TrainedFactors:
    if reply.start is None and scale == 1.0:
        return reply.factors[name]
    return TrainedFactors(reply.factors[name], None if reply.start is None else reply.start[name], scale)


def _weighed(config: RunConfig, current: Mapping[str, Factors], replies: Sequence[ClientUpdate]) -> Weighed:
    """Weights, scales and norms from the robust rule; without a rule, the plain weights."""
    weights, asked = _weights(config, replies), config.federation
    if asked.robust == "auto" or asked.robust == "none":  # for auto in a real federation see `RunConfig.deployed`
        return Weighed(weights, [1.0] * len(replies), [])

    def products(name: str) -> torch.Tensor:
        return inner_products(updates(current[name], [_trained_factors(r, name, 1.0) for r in replies]))

    gram = torch.zeros(len(replies), len(replies), dtype=torch.float64)
    for some in in_parallel(products, list(current)):
        gram += some
    return weigh(gram, weights, Robust(asked.robust, asked.robust_clip, asked.num_byzantine))


def _optimizer(config: RunConfig) -> ServerOptimizer:
    asked = config.federation
    return ServerOptimizer(
        asked.server_optimizer, asked.server_learning_rate, asked.server_momentum, asked.server_second_momentum
    )


def _rule(config: RunConfig) -> Rule:
    asked = config.federation
    return Rule(asked.method, 1.0, asked.space, asked.density, asked.calibrate)


def _weights(config: RunConfig, replies: Sequence[ClientUpdate]) -> list[float]:
    """Weights with sum 1: tokens trained, or equal, or a domain's fixed weight; a straggler's weight is reduced."""
    fixed = {d.name: d.weight for d in config.domains}
    raw = []
    for reply in replies:
        counted = float(reply.num_tokens) if config.federation.weighting == "tokens" else 1.0
        weight = fixed[reply.domain]
        raw.append((counted if weight is None else weight) * config.federation.straggler_weight**reply.rounds_late)
    return [w / sum(raw) for w in raw]
