"""The server's optimizer: the clients' mean update is its gradient, the global update its weights.

All steps are linear in updates, so momentum is a low-rank update too, and no (d_out, d_in) matrix is formed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cogen.adapter import Factors
from cogen.merge.client_updates import Reply, aggregate_updates, mean_update, updates
from cogen.merge.factored import Compressed, compress, norm, normalise_weights, stack
from cogen.merge.rule import Rule, combine

Kind = Literal["none", "momentum", "nesterov", "adam"]


@dataclass(frozen=True)
class ServerOptimizer:
    """How the mean client update D_t of round t moves the global update.

    none:     x += lr * D
    momentum: m = mu * m + D;             x += lr * m
    nesterov: m = mu * m + D;             x += lr * (D + mu * m)
    adam:     m = mu * m + (1 - mu) * D;  v = beta2 * v + (1 - beta2) * |D|^2
              x += lr * u * m^ / (sqrt(v^) + eps), m^ and v^ corrected for their start at 0

    In adam v is one number a module, since second moments by entry need the whole matrix and depend
    on its basis; u is |D| of the first round, so that lr keeps the scale that it has elsewhere.

    Args:
        kind: see above.
        learning_rate: lr, `federation.server_learning_rate`.
        momentum: mu in [0, 1).
        second_momentum: beta2 in [0, 1), for adam.
    Source: DiLoCo (arXiv 2311.08105) for nesterov; FedOpt (arXiv 2003.00295) for momentum and adam.
    """

    kind: Kind = "none"
    learning_rate: float = 1.0
    momentum: float = 0.9
    second_momentum: float = 0.99


@dataclass(frozen=True)
class ServerState:
    """The state of the server's optimizer for one module between rounds.

    Args:
        momentum: m as an update; None before the first round.
        second: v, the running mean of |D|^2.
        unit: u, |D| of the first round.
        num_steps: rounds so far.
    """

    momentum: Factors | None = None
    second: float = 0.0
    unit: float = 0.0
    num_steps: int = 0


def server_step(
    current: Factors,
    trained: Sequence[Reply],
    weights: Sequence[float],
    rank: int,
    optimizer: ServerOptimizer,
    state: ServerState | None = None,
    rule: Rule | None = None,
    seed: int = 0,
) -> tuple[Compressed, ServerState]:
    """The next global update of one module, and the state for the next round.

    Args:
        current, trained, weights, rank: see `aggregate_updates`; momentum is cut to `rank` too.
        state: the state after the last round; None before the first.
        rule: how client updates are combined into D; None for their mean.
        seed: seed of the rule's draws.
    Raises:
        WeightError: the weights are negative, not finite, sum to 0, or are not K.
    """
    state = state or ServerState()
    is_mean = rule is None or (rule.method, rule.calibrate, rule.scale) == ("mean", "none", 1.0)
    if is_mean and optimizer.kind == "none":
        made = aggregate_updates(current, trained, weights, rank, optimizer.learning_rate)
        return made, ServerState(num_steps=state.num_steps + 1)
    if rule is None or is_mean:
        step = mean_update(current, trained, weights)
    else:
        shares = normalise_weights(weights, len(trained))
        step = combine(updates(current, trained), shares, rule, seed).whole
    after = ServerState(num_steps=state.num_steps + 1)
    parts, by = [current, step], [1.0, optimizer.learning_rate]
    if optimizer.kind != "none":
        after = _next_state(step, rank, optimizer, state)
        by[1], on_momentum = _shares(optimizer, after)
        if state.momentum is not None:
            parts, by = [*parts, state.momentum], [*by, on_momentum * optimizer.momentum]
    return compress(stack(parts, by), rank, current.scaling), after


def _next_state(update: Factors, rank: int, optimizer: ServerOptimizer, state: ServerState) -> ServerState:
    is_adam = optimizer.kind == "adam"
    size, beta = norm(update), optimizer.second_momentum
    fresh = 1.0 - optimizer.momentum if is_adam else 1.0
    old = [] if state.momentum is None else [state.momentum]
    momentum = compress(stack([*old, update], [*[optimizer.momentum] * len(old), fresh]), rank).factors
    second = beta * state.second + (1.0 - beta) * size**2 if is_adam else 0.0
    return ServerState(momentum, second, state.unit if state.num_steps else size, state.num_steps + 1)


def _shares(optimizer: ServerOptimizer, after: ServerState) -> tuple[float, float]:
    """The step as shares of this round's mean update and of mu * (the momentum before it)."""
    rate, mu = optimizer.learning_rate, optimizer.momentum
    if optimizer.kind == "momentum":
        return rate, rate
    if optimizer.kind == "nesterov":
        return rate * (1.0 + mu), rate * mu
    root = math.sqrt(after.second / (1.0 - optimizer.second_momentum**after.num_steps))
    size = rate * after.unit / ((1.0 - mu**after.num_steps) * (root + 1e-12)) if after.unit > 0 else 0.0
    return size * (1.0 - mu), size
