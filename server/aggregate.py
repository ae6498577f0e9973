"""From valid replies to the new global factors: the weighted mean of increments, exact until it is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from cogen.adapter import Factors
from cogen.base import BaseInfo
from cogen.config import RunConfig
from cogen.merge.factored import energy_of, revive
from cogen.merge.procrustes import turn
from cogen.merge.rule import Rule
from cogen.merge.server_step import ServerOptimizer, ServerState, server_step
from cogen.parallel import in_parallel
from cogen.train.lora import init_factors, module_seed
from cogen.train.start import target_modules
from server.replies import Reply


@dataclass(frozen=True)
class Aggregated:
    """New global factors, the weights used (sum 1), the share of energy that the cut lost, the optimiser's state."""

    factors: dict[str, Factors]
    weights: list[float]
    energy_cut_frac: float
    states: dict[str, ServerState] = field(default_factory=dict)


def first_global(base: BaseInfo, config: RunConfig) -> dict[str, Factors]:
    """The shared starting point: it changes nothing yet, and every client can train it."""
    modules = target_modules(base.modules, config.train)
    return init_factors(modules, config.server_rank, config.train.scaling, config.train.seed)


def aggregate(
    config: RunConfig,
    current: Mapping[str, Factors],
    replies: Sequence[Reply],
    round_number: int,
    states: Mapping[str, ServerState] | None = None,
) -> Aggregated:
    """The server's step on the replies' mean increment, cut to the server's rank.

    Directions that carry nothing are drawn afresh (A random, B zero), so that every client can train
    all of them in the next round.
    """
    weights, optimizer, rule = _weights(config, replies), _optimizer(config), _rule(config)
    borders = [config.rank_of(d) for d in config.domains]

    def step(name: str) -> tuple[Factors, ServerState, float, float]:
        now = current[name]
        rank, seed = min(config.server_rank, *now.shape), module_seed(config.train.seed + round_number, name)
        state = (states or {}).get(name)
        trained = [r.factors[name] for r in replies]
        made, next_state = server_step(now, trained, weights, rank, optimizer, state, rule, seed)
        fresh = revive(made.factors, rank, torch.Generator().manual_seed(seed))
        turned = turn(fresh, now, borders) if config.federation.turn_factors else fresh
        return turned, next_state, made.energy_cut_frac, energy_of(made.singular_values)

    factors: dict[str, Factors] = {}
    after: dict[str, ServerState] = {}
    cut = total = 0.0
    for name, (made, state, lost_frac, energy) in zip(current, in_parallel(step, list(current)), strict=True):
        factors[name], after[name] = made, state
        cut, total = cut + lost_frac * energy, total + energy
    return Aggregated(factors, weights, cut / total if total > 0 else 0.0, after)


def _optimizer(config: RunConfig) -> ServerOptimizer:
    asked = config.federation
    return ServerOptimizer(
        asked.server_optimizer, asked.server_scale, asked.server_momentum, asked.server_second_momentum
    )


def _rule(config: RunConfig) -> Rule:
    asked = config.federation
    return Rule(asked.method, 1.0, asked.space, asked.density, asked.calibrate)


def _weights(config: RunConfig, replies: Sequence[Reply]) -> list[float]:
    """Tokens trained, one for all, or what the config says of a domain; normalised to sum 1."""
    fixed = {d.name: d.weight for d in config.domains}
    raw = []
    for reply in replies:
        counted = float(reply.num_tokens) if config.federation.weighting == "tokens" else 1.0
        weight = fixed[reply.domain]
        raw.append(counted if weight is None else weight)
    return [w / sum(raw) for w in raw]
