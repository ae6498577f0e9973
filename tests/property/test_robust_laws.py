"""Robust means: factored against dense, and their bounds under any one bad client."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cogen.adapter import Factors
from cogen.errors import MergeError
from cogen.merge import Robust, TrainedFactors, aggregate_updates, compress, inner_products, leading, server_step, weigh
from cogen.merge.server_step import ServerOptimizer

SHAPES = {"x": (9, 12), "y": (5, 4)}
Client = dict[str, Factors]

laws = settings(max_examples=40, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10**6)
sizes = st.floats(-12, 12).map(lambda power: 10.0**power)
kinds = st.sampled_from(["none", "clip", "median", "krum"])


def client(seed: int, size: float = 1.0) -> Client:
    """A client update of both modules; its rank depends on the seed."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, (d_out, d_in) in SHAPES.items():
        rank = 1 + seed % 3
        a = torch.randn(rank, d_in, generator=generator, dtype=torch.float64)
        b = torch.randn(d_out, rank, generator=generator, dtype=torch.float64)
        made[name] = Factors(a=a, b=size * b, scaling=2.0)
    return made


def turned(one: Client, seed: int) -> Client:
    """The same update in other factors: equal but for rounding."""
    made = {}
    for name, f in one.items():
        generator = torch.Generator().manual_seed(seed)
        q = torch.linalg.qr(torch.randn(f.rank, f.rank, generator=generator, dtype=torch.float64)).Q
        made[name] = Factors(a=q.T @ f.a, b=f.b @ q, scaling=f.scaling)
    return made


def gram_of(clients: list[Client]) -> Tensor:
    return sum((inner_products([c[name] for c in clients]) for name in SHAPES), torch.zeros(()))


def dense(one: Client) -> Tensor:
    return torch.cat([one[name].delta().flatten() for name in SHAPES])


def result(clients: list[Client], weights: list[float], rule: Robust) -> Tensor:
    """D as a vector, by the weights and scales that the rule gives."""
    made = weigh(gram_of(clients), weights, rule)
    assert math.isclose(sum(made.weights), 1.0, rel_tol=1e-12)
    terms = [w * s * dense(c) for w, s, c in zip(made.weights, made.scales, clients, strict=True)]
    return sum(terms, torch.zeros(()))


def good(seed: int, count: int) -> list[Client]:
    return [client(seed + i) for i in range(count)]


def shares(seed: int, count: int) -> list[float]:
    raw = (torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1).tolist()
    return [w / sum(raw) for w in raw]


@laws
@given(seeds, st.integers(2, 6))
def test_inner_products_are_those_of_the_matrices(seed: int, count: int) -> None:
    """Red: scalings are dropped. Red: only the diagonal is summed."""
    clients = good(seed, count)
    vectors = torch.stack([dense(c) for c in clients])
    assert torch.allclose(gram_of(clients), vectors @ vectors.T, rtol=1e-10, atol=1e-9)


@laws
@given(seeds, st.sampled_from([5, 6, 7]), kinds)
def test_order_does_not_matter(seed: int, count: int, kind: Any) -> None:
    clients, weights = good(seed, count), shares(seed, count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    there = result(clients, weights, Robust(kind))
    back = result([clients[i] for i in order], [weights[i] for i in order], Robust(kind))
    assert float((there - back).norm()) < 1e-7 * float(there.norm())


@laws
@given(seeds, sizes, kinds)
def test_identical_clients_give_what_each_of_them_sent(seed: int, size: float, kind: Any) -> None:
    """Whatever the size, and in whatever factors they sent it.

    Red: krum takes the rounding of equal client updates for a distance and picks among them.
    """
    one, counts = client(seed, size), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    same = [turned(one, i) for i in range(6)]
    made = weigh(gram_of(same), counts, Robust(kind))
    assert made.scales == pytest.approx([1.0] * 6) and min(made.weights) > 0
    assert float((result(same, counts, Robust(kind)) - dense(one)).norm()) < 1e-9 * float(dense(one).norm())
    nothing = client(seed, 0.0)
    assert float(result([nothing] * 6, [1.0] * 6, Robust(kind)).norm()) == 0


@laws
@given(seeds, st.integers(2, 7), st.sampled_from([0.5, 1.0, 3.0]), sizes, sizes)
def test_clipping_bounds_what_one_client_can_do(
    seed: int, count: int, clip: float, size: float, instead: float
) -> None:
    """The three statements of `clip_scales`, for a last client of any size, and for any other in its place.

    Red: the upper median, or the mean of both, for two clients. Red: scales are 1 / norm, unclamped.
    """
    others, weights = good(seed, count - 1), shares(seed, count)
    w, rule = weights[-1], Robust("clip", clip=clip)
    bad, other = client(seed + 99, size), client(seed + 98, instead)
    found = []
    for last in (bad, other):
        made = weigh(gram_of([*others, last]), weights, rule)
        median = sorted(made.norms)[(count - 1) // 2]
        own = w * made.scales[-1] * made.norms[-1]
        assert own <= w * clip * median * (1 + 1e-9)
        assert median <= max(made.norms[:-1])
        found.append((result([*others, last], weights, rule), median))
    (d, m), (d2, m2) = found
    assert float(d.norm()) <= clip * m * (1 + 1e-9)
    limit = clip * (w * (m + m2) + (1 - w) * abs(m - m2))
    assert float((d - d2).norm()) <= limit * (1 + 1e-9)
    if m == m2:
        assert float((d - d2).norm()) <= 2 * w * clip * m * (1 + 1e-9)


def test_clipping_by_hand() -> None:
    """Norms 1, 2, 8: the median is 2. Red: the bound is the mean norm. Red: small client updates are scaled up."""
    gram = torch.diag(torch.tensor([1.0, 4.0, 64.0], dtype=torch.float64))
    assert weigh(gram, [1, 1, 2], Robust("clip")).scales == [1.0, 1.0, 0.25]
    assert weigh(gram, [1, 1, 2], Robust("clip", clip=2.0)).scales == [1.0, 1.0, 0.5]
    assert weigh(gram, [1, 1, 2], Robust("clip")).weights == [0.25, 0.25, 0.5]
    assert weigh(gram[1:, 1:], [1, 1], Robust("clip")).scales == [1.0, 0.25]


@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(seeds, st.integers(3, 6))
def test_weiszfeld_finds_the_least_sum_of_distances(seed: int, count: int) -> None:
    """No step in any direction from the vector that Weiszfeld gives, by a dense float64 loop, lowers the sum.

    Red: weights do not enter. Red: one step only.
    """
    clients, weights = good(seed, count), shares(seed, count)
    vectors, w = torch.stack([dense(c) for c in clients]), torch.tensor(weights, dtype=torch.float64)

    def cost(z: Tensor) -> float:
        return float((w * (vectors - z).norm(dim=1)).sum())

    z = (w[:, None] * vectors).sum(0)
    for _ in range(1000):
        near = w / (vectors - z).norm(dim=1).clamp_min(1e-12)
        z = (near[:, None] * vectors).sum(0) / near.sum()
    mine = result(clients, weights, Robust("median"))
    assert cost(mine) <= cost(z) * (1 + 1e-6)
    assert cost(mine) < cost(z + 0.05 * vectors[0]) and cost(mine) < cost(z - 0.05 * vectors[0])


@laws
@given(seeds, st.integers(3, 7), sizes)
def test_the_median_stays_with_the_good_ones(seed: int, count: int, size: float) -> None:
    """The bound of `median_weights` for one bad client of weight 1 / K. Red: the mean."""
    others = good(seed, count - 1)
    largest = max(float(dense(c).norm()) for c in others)
    made = result([*others, client(seed + 99, size)], [1.0] * count, Robust("median"))
    alpha = 1 / count
    assert float(made.norm()) <= 2 * (1 - alpha) / (1 - 2 * alpha) * largest * (1 + 1e-5)


@laws
@given(seeds, st.sampled_from([(5, 1), (7, 2), (9, 2)]), sizes)
def test_krum_is_the_rule_of_its_paper(seed: int, numbers: tuple[int, int], size: float) -> None:
    """Against dense distances; f bad ones that are far away are never chosen. Red: a client counts as near itself."""
    n, f = numbers
    bad = [client(seed + 50 + i, 1e3 * max(size, 1.0)) for i in range(f)]
    clients = [*good(seed, n - f), *bad]
    vectors = torch.stack([dense(c) for c in clients])
    away = (vectors[:, None] - vectors[None, :]).square().sum(2)
    scores = [sum(sorted(away[i].tolist())[1 : n - f - 1]) for i in range(n)]
    wanted = sorted(range(n), key=lambda i: scores[i])[: n - f - 2]
    made = weigh(gram_of(clients), [1.0] * n, Robust("krum", num_bad=f))
    assert sorted(i for i in range(n) if made.weights[i] > 0) == sorted(wanted)
    assert max(wanted) < n - f
    assert [round(w, 9) for w in made.weights if w > 0] == [round(1 / (n - f - 2), 9)] * (n - f - 2)


def test_krum_needs_enough_updates() -> None:
    with pytest.raises(MergeError, match=r"at least 7 client updates with num_byzantine = 2, got 6"):
        weigh(gram_of(good(1, 6)), [1.0] * 6, Robust("krum", num_bad=2))


@pytest.mark.parametrize("kind", ["none", "momentum", "nesterov", "adam"])
def test_scales_and_starts_in_the_servers_step(kind: Any) -> None:
    """One scaled client update, one taken against older factors. Red: the scale acts on the factors too. Red: the start
    is taken for the current one."""
    current = compress(client(7)["x"], None, 2.0).factors
    older = compress(client(8)["x"], None, 2.0).factors
    plain, scaled, late = (client(seed)["x"] for seed in (3, 4, 5))
    given = [plain, TrainedFactors(scaled, scale=0.25), TrainedFactors(late, start=older)]
    made, _ = server_step(current, given, [1, 2, 5], 9, ServerOptimizer(kind, 0.7, 0.0, 0.5))
    mean = sum(
        (
            w / 8 * scale * (f.delta() - leading(start, f.rank)[0].delta())
            for w, scale, f, start in [(1, 1, plain, current), (2, 0.25, scaled, current), (5, 1, late, older)]
        ),
        torch.zeros(()),
    )
    wanted = current.delta() + 0.7 * mean
    assert float((made.factors.delta() - wanted).norm()) < 1e-9 * float(wanted.norm())
    if kind == "none":
        again = aggregate_updates(current, given, [1, 2, 5], 9, 0.7)
        assert torch.equal(again.factors.a, made.factors.a)
