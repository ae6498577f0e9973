"""A diagnosis compared with dense float64 algebra, with random subspaces, and for other factors of the same updates.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cogen.adapter import Adapter, Factors
from cogen.analysis.diagnose import diagnose
from cogen.analysis.diagnosis import Diagnosis

RELATIONS = (
    "output_overlap",
    "output_chance",
    "input_overlap",
    "input_chance",
    "cosine",
    "meeting_frac",
    "sign_conflict_frac",
    "norm_ratio",
)


def law(test: Callable[..., None]) -> Any:
    """The same 25 examples on every run, with no limit on time."""
    return settings(max_examples=25, deadline=None, derandomize=True, database=None)(test)


def update(generator: torch.Generator, shape: tuple[int, int], rank: int, scaling: float = 1.0) -> Factors:
    a = torch.randn(rank, shape[1], generator=generator, dtype=torch.float64)
    b = torch.randn(shape[0], rank, generator=generator, dtype=torch.float64)
    return Factors(a=a, b=b, scaling=scaling)


def mixed(seed: int) -> list[Adapter]:
    """Three adapters of unequal ranks, sizes and scalings, related to each other; the last lacks a module."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"layers.0.q_proj": (9, 7), "layers.1.q_proj": (9, 7), "layers.1.down_proj": (12, 20)}
    common = {m: update(generator, shape, 2) for m, shape in shapes.items()}
    adapters = []
    for rank, share, scaling in ((2, 0.8, 1.0), (4, 0.5, 0.5), (3, -0.6, 2.0)):
        factors = {}
        for m, shape in shapes.items():
            f = update(generator, shape, rank, scaling)
            f.a[:2] += share * common[m].a
            f.b[:, :2] += share * common[m].b
            factors[m] = f
        adapters.append(Adapter(factors, ""))
    adapters[-1] = Adapter({m: f for m, f in adapters[-1].factors.items() if m != "layers.1.q_proj"}, "")
    return adapters


def names(adapters: Sequence[Adapter]) -> list[str]:
    return [f"a{i}" for i in range(len(adapters))]


def dense_delta(adapter: Adapter, module: str) -> Tensor | None:
    f = adapter.factors.get(module)
    return None if f is None else f.scaling * f.b @ f.a


def projector(columns: Tensor) -> tuple[Tensor, int]:
    u, values, _ = torch.linalg.svd(columns)
    rank = int((values > 1e-9 * values[0]).sum())
    return u[:, :rank] @ u[:, :rank].T, rank


def eigenbasis(symmetric: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(symmetric)
    return vectors[:, values > 1e-9 * values[-1]]


def dense_pair(adapters: Sequence[Adapter], i: int, j: int) -> dict[str, float]:
    """Every number of a pair, with full matrices."""
    sums = dict.fromkeys(("inner", "met", "clash", "weight", "out", "out_chance", "in", "in_chance"), 0.0)
    squares = [0.0, 0.0]
    for module in sorted(adapters[0].factors):
        deltas = [dense_delta(a, module) for a in adapters]
        x, y = deltas[i], deltas[j]
        squares = [q + (0.0 if d is None else float(d.square().sum())) for q, d in zip(squares, (x, y), strict=True)]
        if x is None or y is None:
            continue
        weight = float(x.norm() * y.norm())
        sums["weight"] += weight
        for side, left, right in (("out", x, y), ("in", x.T, y.T)):
            (p, r), (q, s) = projector(left), projector(right)
            sums[side] += weight * float(torch.trace(p @ q)) / min(r, s)
            sums[f"{side}_chance"] += weight * max(r, s) / len(left)
        present = [d for d in deltas if d is not None]
        left, right = eigenbasis(sum(d @ d.T for d in present)), eigenbasis(sum(d.T @ d for d in present))
        product = (left.T @ x @ right) * (left.T @ y @ right)
        sums["inner"] += float((x * y).sum())
        sums["met"] += float(product.abs().sum())
        sums["clash"] += float(product[product < 0].abs().sum())
    norms = [math.sqrt(q) for q in squares]
    overlaps = [sums[k] / sums["weight"] for k in ("out", "out_chance", "in", "in_chance")]
    meeting = [sums["inner"] / (norms[0] * norms[1]), sums["met"] / (norms[0] * norms[1])]
    values = [*overlaps, *meeting, sums["clash"] / sums["met"], norms[0] / norms[1]]
    return dict(zip(RELATIONS, values, strict=True))


@law
@given(st.integers(0, 10**6))
def test_every_number_of_a_pair_is_the_dense_one(seed: int) -> None:
    """Red: overlap over the larger rank. Red: all modules weigh the same."""
    adapters = mixed(seed)
    found = diagnose(adapters, names(adapters))
    for (i, j), pair in zip(combinations(range(3), 2), found.pairs, strict=True):
        expected = dense_pair(adapters, i, j)
        assert {k: getattr(pair, k) for k in RELATIONS} == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert pair.cosine == pytest.approx(pair.meeting_frac * (1 - 2 * pair.sign_conflict_frac), abs=1e-12)


@law
@given(st.integers(0, 10**6))
def test_the_mean_keeps_the_energy_of_its_dense_svd(seed: int) -> None:
    """Red: the mean is over the adapters that have the module. Red: the curve weighs all modules alike."""
    adapters = mixed(seed)
    found = diagnose(adapters, names(adapters))
    squares = torch.zeros(20, dtype=torch.float64)
    for module in adapters[0].factors:
        present = [d for a in adapters if (d := dense_delta(a, module)) is not None]
        values = torch.linalg.svdvals(sum(present) / 3).square()
        squares[: len(values)] += values
    held = squares.cumsum(dim=0) / squares.sum()
    assert [e.rank for e in found.energy_by_rank] == [1, 2, 4, 8, 9]
    assert [e.energy_frac for e in found.energy_by_rank] == pytest.approx(
        [float(held[e.rank - 1]) for e in found.energy_by_rank]
    )
    assert found.rank_for_90 == int((held < 0.90).sum()) + 1
    assert found.rank_for_99 == int((held < 0.99).sum()) + 1


@law
@given(st.integers(0, 10**6))
def test_averaging_factors_is_off_by_the_dense_cross_terms(seed: int) -> None:
    """Red: scalings are dropped of B."""
    generator = torch.Generator().manual_seed(seed)
    scalings = (0.5, 1.0, 3.0)
    adapters = [Adapter({m: update(generator, (6, 8), 2, s) for m in "xy"}, "") for s in scalings]
    found = diagnose(adapters, names(adapters))
    off = there = 0.0
    for m in "xy":
        parts = [a.factors[m] for a in adapters]
        mean = sum(f.delta() for f in parts) / 3
        apart = (sum(f.scaling * f.b for f in parts) / 3) @ (sum(f.a for f in parts) / 3)
        off, there = off + float((apart - mean).square().sum()), there + float(mean.square().sum())
    assert found.factor_average_error == pytest.approx(math.sqrt(off / there), rel=1e-5)


def dense_shared(adapters: Sequence[Adapter], count: int) -> tuple[int, float]:
    """Number of directions, and the part of the energy in the `count` most shared ones, from dense projectors."""
    deltas = [a.factors["x"].delta() for a in adapters]
    values, vectors = torch.linalg.eigh(sum(projector(d)[0] for d in deltas))
    energy = sum(float((vectors[:, -count:].T @ d).square().sum()) for d in deltas)
    return int((values > 1e-9).sum()), energy / sum(float(d.square().sum()) for d in deltas)


@law
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_shared_directions_are_those_of_the_dense_projectors(seed: int, count: int) -> None:
    """Two directions of five are common, one more is nearly so. Red: sqrt(lambda) for lambda."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(80, 3, generator=generator, dtype=torch.float64)
    adapters = []
    for _ in range(count):
        f = update(generator, (80, 30), 5)
        f.b[:, :2], f.b[:, 2] = common[:, :2], common[:, 2] + 0.3 * f.b[:, 2]
        adapters.append(Adapter({"x": f}, ""))
    found = diagnose(adapters, names(adapters))
    num_directions, energy_frac = dense_shared(adapters, 3)
    assert (found.num_directions, found.num_shared_directions) == (num_directions, 3)
    assert found.shared_energy_frac == pytest.approx(energy_frac, rel=1e-9)


@pytest.mark.parametrize(("have", "count", "expected"), [(1, 2, 0), (2, 2, 1), (2, 3, 1), (2, 5, 0), (3, 5, 1)])
def test_a_direction_is_shared_if_more_than_half_have_it(have: int, count: int, expected: int) -> None:
    """All others are orthogonal to each other. Red: the threshold is (K + 1) / 2."""
    generator = torch.Generator().manual_seed(count)
    basis = torch.linalg.qr(torch.randn(80, 80, generator=generator, dtype=torch.float64)).Q
    adapters = []
    for i in range(count):
        f = update(generator, (80, 30), 3)
        f.b[:] = basis[:, 1 + 3 * i : 4 + 3 * i]
        if i < have:
            f.b[:, 0] = basis[:, 0]
        adapters.append(Adapter({"x": f}, ""))
    found = diagnose(adapters, names(adapters))
    assert (found.num_shared_directions, found.num_directions) == (expected, 3 * count - have + 1)


def test_random_subspaces_overlap_by_r_over_n() -> None:
    """Oracle 12: the mean of 300 draws, 4 standard errors off at most. Red: chance is the smaller rank over n."""
    generator = torch.Generator().manual_seed(7)
    ranks, shape = (4, 10), (50, 64)
    adapters = []
    for rank in ranks:
        factors = {}
        for k in range(300):
            f = update(generator, shape, rank)
            # Orthonormal factors: every draw has the same weight.
            factors[f"m{k}"] = Factors(torch.linalg.qr(f.a.T).Q.T, torch.linalg.qr(f.b).Q, 1.0)
        adapters.append(Adapter(factors, ""))
    pair = diagnose(adapters, ["four", "ten"]).pairs[0]
    assert (pair.output_chance, pair.input_chance) == pytest.approx((10 / 50, 10 / 64))
    # One draw spreads by about sqrt(2 r s (n-r)(n-s) / n^4) / min(r, s), 0.035 and 0.030.
    assert pair.output_overlap == pytest.approx(10 / 50, abs=4 * 0.035 / math.sqrt(300))
    assert pair.input_overlap == pytest.approx(10 / 64, abs=4 * 0.030 / math.sqrt(300))
    assert abs(pair.cosine or 0.0) < 0.01
    assert pair.sign_conflict_frac == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("count", "rank"), [(2, 18), (4, 10), (8, 6)])
def test_random_subspaces_share_no_direction(count: int, rank: int) -> None:
    """At n = 60 and r = 18 two random ones have a direction at 1.9 of 2. Red: CHANCE_MARGIN is 0."""
    generator = torch.Generator().manual_seed(count)
    adapters = [Adapter({f"m{k}": update(generator, (60, 60), rank) for k in range(10)}, "") for _ in range(count)]
    found = diagnose(adapters, names(adapters))
    assert found.num_shared_directions == 0
    assert found.num_directions == 10 * min(60, count * rank)


def test_equal_subspaces_overlap_by_one_and_orthogonal_ones_by_none() -> None:
    """Oracle 12. Red: overlap over the larger rank."""
    generator = torch.Generator().manual_seed(1)
    f = update(generator, (30, 40), 6)
    turn = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    same = Factors(turn @ f.a, f.b @ turn, 3.0)  # the same subspaces, another update
    inside = Factors(f.a[:2], f.b[:, :2], 1.0)
    away = Factors(torch.linalg.svd(f.a).Vh[6:12], torch.linalg.svd(f.b).U[:, 6:12], 1.0)
    found = diagnose([Adapter({"x": g}, "") for g in (f, same, inside, away)], ["f", "same", "inside", "away"])
    values = {(p.first, p.second): (p.output_overlap, p.input_overlap) for p in found.pairs}
    assert values["f", "same"] == pytest.approx((1.0, 1.0))
    assert values["f", "inside"] == pytest.approx((1.0, 1.0))
    assert values["f", "away"] == pytest.approx((0.0, 0.0), abs=1e-20)
    pair = found.pair("away", "f")
    assert pair is not None
    assert (pair.cosine, pair.sign_conflict_frac) == (pytest.approx(0.0, abs=1e-12), None)


def numbers(found: Diagnosis) -> list[float | None]:
    """All that may not depend on the factors, in one row."""
    rows: list[Any] = [[getattr(p, k) for k in RELATIONS] for p in found.pairs]
    rows += [[f.energy_frac, f.output_overlap, f.input_overlap, f.cosine, f.sign_conflict_frac] for f in found.families]
    rows.append([found.num_directions, found.num_shared_directions, found.shared_energy_frac])
    rows.append([e.energy_frac for e in found.energy_by_rank] + [a.norm for a in found.adapters])
    return [value for row in rows for value in row]


@law
@given(st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 1e3]))
def test_only_the_error_of_averaging_depends_on_the_factors(seed: int, size: float) -> None:
    """Oracle 5: (B G, G^-1 A). Red: updates are taken as they come, without their SVD."""
    adapters, turned = mixed(seed), []
    generator = torch.Generator().manual_seed(seed + 1)
    for adapter in adapters:
        factors = {}
        for m, f in adapter.factors.items():
            g = size * (torch.eye(f.rank) + 0.3 * torch.randn(f.rank, f.rank, generator=generator)).double()
            factors[m] = Factors(torch.linalg.inv(g) @ f.a, f.b @ g, f.scaling)
        turned.append(Adapter(factors, ""))
    before, after = diagnose(adapters, names(adapters)), diagnose(turned, names(adapters))
    assert numbers(after) == pytest.approx(numbers(before), rel=1e-6, abs=1e-9)
    same_rank = [Adapter({"x": a.factors["layers.0.q_proj"]}, "") for a in (adapters[0], adapters[0])]
    other = [same_rank[0], Adapter({"x": turned[0].factors["layers.0.q_proj"]}, "")]
    assert diagnose(same_rank, ["a", "b"]).factor_average_error == pytest.approx(0.0, abs=1e-7)
    assert (diagnose(other, ["a", "b"]).factor_average_error or 0.0) > 1e-3
