"""The server's optimizers compared with the same rules on full matrices; factors aligned with the previous ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cogen.adapter import Adapter, Factors
from cogen.merge import Rule, aggregate_updates, compress, leading, merge_adapters, stack
from cogen.merge.procrustes import procrustes_align
from cogen.merge.server_step import ServerOptimizer, ServerState, server_step

SHAPE = (9, 12)
MU, BETA, RATE = 0.8, 0.9, 0.7


def update(seed: int, rank: int, scaling: float = 2.0) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, SHAPE[1], generator=generator, dtype=torch.float64)
    b = torch.randn(SHAPE[0], rank, generator=generator, dtype=torch.float64)
    return Factors(a=a, b=b, scaling=scaling)


def off(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / y.norm().clamp_min(1e-12))


def dense_step(kind: str, x: Tensor, d: Tensor, s: dict[str, Any]) -> Tensor:
    """The rules as their papers write them, on (d_out, d_in)."""
    s["t"] = s.get("t", 0) + 1
    m = s.get("m", torch.zeros_like(x))
    if kind == "none":
        return x + RATE * d
    if kind == "adam":
        s["m"] = MU * m + (1 - MU) * d
        s["v"] = BETA * s.get("v", 0.0) + (1 - BETA) * float(d.square().sum())
        s.setdefault("u", float(d.norm()))
        m_hat, v_hat = s["m"] / (1 - MU ** s["t"]), s["v"] / (1 - BETA ** s["t"])
        return x + RATE * s["u"] * m_hat / v_hat**0.5
    s["m"] = MU * m + d
    return x + RATE * (s["m"] if kind == "momentum" else d + MU * s["m"])


@pytest.mark.parametrize("kind", ["none", "momentum", "nesterov", "adam"])
def test_a_step_in_factors_is_the_step_on_matrices(kind: Any) -> None:
    """Four rounds, mixed ranks, nothing cut. Red: nesterov adds m instead of D + mu m. Red: v over entries' mean.
    Red: the momentum before this round is counted with mu twice."""
    optimizer = ServerOptimizer(kind, RATE, MU, BETA)
    current, state, known = compress(update(1, 4), None, 2.0).factors, None, {}
    dense = current.delta()
    for t in range(4):
        ranks, weights = [2, 4, 6], [1.0, 2.0, 5.0]
        starts = [leading(current, r)[0] for r in ranks]
        trained = [update(10 * t + i, r) for i, r in enumerate(ranks)]
        d = sum((w / 8 * (f.delta() - s.delta()) for w, f, s in zip(weights, trained, starts, strict=True)), 0 * dense)
        dense = dense_step(kind, dense, d, known)
        made, state = server_step(current, trained, weights, 9, optimizer, state)
        assert off(made.factors.delta(), dense) < 1e-9 and made.factors.scaling == 2.0
        current = made.factors
    assert isinstance(state, ServerState) and state.num_steps == 4
    assert (state.momentum is None) == (kind == "none")


def test_without_momentum_every_optimiser_is_the_plain_step() -> None:
    """At mu = 0; adam in the first round. Red: the bias correction is dropped."""
    current, trained = compress(update(1, 4), None, 2.0).factors, [update(i, 3) for i in (2, 3)]
    plain = aggregate_updates(current, trained, [1, 3], 9, 0.5).factors.delta()
    for kind in ("momentum", "nesterov", "adam"):
        made, _ = server_step(current, trained, [1, 3], 9, ServerOptimizer(kind, 0.5, 0.0, 0.5))  # type: ignore[arg-type]
        assert off(made.factors.delta(), plain) < 1e-9


def test_clients_that_learnt_nothing_leave_everything_where_it_was() -> None:
    current = compress(update(1, 4), None, 2.0).factors
    for kind in ("none", "momentum", "nesterov", "adam"):
        made, state = server_step(current, [current, current], [1, 1], 9, ServerOptimizer(kind))  # type: ignore[arg-type]
        assert off(made.factors.delta(), current.delta()) < 1e-9
        assert state.unit < 1e-9


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**6), st.sampled_from([(), (2,), (1, 4), (3, 99)]))
def test_turned_factors_are_the_same_update_and_closer(seed: int, borders: tuple[int, ...]) -> None:
    """Red: G in place of G^T on one side. Red: borders are ignored."""
    new, old = (compress(update(seed + i, 6), None, 2.0).factors for i in (0, 1))
    turned = procrustes_align(new, old, borders)
    assert off(turned.delta(), new.delta()) < 1e-10
    for rank in (b for b in borders if b < 6):
        assert off(leading(turned, rank)[0].delta(), leading(new, rank)[0].delta()) < 1e-10

    def distance(f: Factors) -> float:
        return float((f.a - old.a).square().sum() + (f.b - old.b).square().sum())

    assert distance(turned) <= distance(new) + 1e-9
    generator = torch.Generator().manual_seed(seed)
    if not borders:
        for _ in range(5):
            g = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
            assert distance(turned) <= distance(Factors(g.T @ new.a, new.b @ g, 2.0)) + 1e-9


def test_a_rotation_of_the_old_factors_is_undone() -> None:
    """Red: D is left in G."""
    old = compress(update(3, 5), None, 2.0).factors
    g = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    back = procrustes_align(Factors(g.T @ old.a, old.b @ g, 2.0), old)
    assert off(back.a, old.a) < 1e-10 and off(back.b, old.b) < 1e-10
    other = compress(update(4, 3), None, 2.0).factors
    assert procrustes_align(other, old) is other


@pytest.mark.parametrize("options", [{"method": "tsv_m"}, {"method": "ties", "density": 0.5}, {"calibrate": "pico"}])
@pytest.mark.parametrize("kind", ["none", "nesterov"])
def test_a_rule_acts_on_what_the_clients_added(options: dict[str, Any], kind: Any) -> None:
    """In a first round from nothing the result is the merge of the experts; later, it is added to `current`.

    Red: the rule gets the trained factors instead of the client updates. Red: weights are dropped.
    """
    rule, optimizer = Rule(**options), ServerOptimizer(kind, 0.7, 0.5)
    trained = [update(i, r) for i, r in ((2, 3), (3, 4), (4, 2))]
    factor = 0.7 * (1.5 if kind == "nesterov" else 1.0)
    nothing = Factors(update(1, 4).a, torch.zeros(SHAPE[0], 4, dtype=torch.float64), 2.0)
    merged = merge_adapters([Adapter({"x": f}, "") for f in trained], [1, 2, 3], **options).adapter.factors["x"].delta()
    made, _ = server_step(nothing, trained, [1, 2, 3], 9, optimizer, None, rule)
    assert off(made.factors.delta(), factor * merged) < 1e-9
    current = compress(update(1, 4), None, 2.0).factors
    added = [stack([f, leading(current, f.rank)[0]], [1.0, 1.0]) for f in trained]
    made, _ = server_step(current, added, [1, 2, 3], 9, optimizer, None, rule)
    # What was added has a rank above 4, so that all of `current` was trained by everyone.
    parts = [stack([f, current], [1.0, -1.0]) for f in added]
    expected = merge_adapters([Adapter({"x": f}, "") for f in parts], [1, 2, 3], **options).adapter.factors["x"].delta()
    assert off(made.factors.delta(), current.delta() + factor * expected) < 1e-9


def test_the_mean_as_a_rule_is_the_exact_step() -> None:
    current, trained = compress(update(1, 4), None, 2.0).factors, [update(i, 3) for i in (2, 3)]
    plain, _ = server_step(current, trained, [1, 3], 9, ServerOptimizer("none", 0.5))
    ruled, _ = server_step(current, trained, [1, 3], 9, ServerOptimizer("none", 0.5), None, Rule("mean"))
    assert torch.equal(plain.factors.a, ruled.factors.a)
