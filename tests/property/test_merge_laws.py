"""Laws for all updates: linearity, order, missing modules, and properties of the factored form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cogen.adapter import Adapter, Factors, Gram
from cogen.merge import (
    aggregate_updates,
    compress,
    core_space,
    from_core,
    knots_space,
    leading,
    mean,
    merge_adapters,
    revive,
    stack,
)
from cogen.merge.factored import inner, norm

SHAPE = st.tuples(st.integers(2, 12), st.integers(2, 12))
SEED = st.integers(0, 10**6)
RANKS = st.lists(st.integers(1, 6), min_size=1, max_size=4)
BLIND: list[dict[str, Any]] = [
    {"method": "mean"},
    {"method": "task_arithmetic"},
    {"method": "ties"},
    {"method": "ties", "density": 0.5},
    {"method": "ties", "density": 0.5, "space": "knots"},
    {"method": "tsv_m"},
    {"method": "iso_c"},
    {"method": "regmean"},
    {"method": "mean", "calibrate": "pico"},
]
WEIGHT = st.floats(-3, 3).map(lambda w: round(w, 3))


def law(test: Callable[..., None]) -> Any:
    """The same 25 examples on every run, with no limit on time."""
    return settings(max_examples=25, deadline=None, derandomize=True, database=None)(test)


def update(seed: int, shape: tuple[int, int], rank: int, dtype: torch.dtype = torch.float64) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, shape[1], generator=generator, dtype=torch.float64)
    b = torch.randn(shape[0], rank, generator=generator, dtype=torch.float64)
    return Factors(a=a.to(dtype), b=b.to(dtype), scaling=1.0 + seed % 3)


def close(x: Tensor, y: Tensor, tolerance: float = 1e-10) -> bool:
    return float((x - y).norm()) <= tolerance * max(1.0, float(y.norm()))


def is_diagonal(x: Tensor) -> bool:
    return close(x, x.diag().diag())


def adapters(seed: int, count: int, shape: tuple[int, int] = (7, 10)) -> list[Adapter]:
    return [
        Adapter(
            {"x": update(seed + 2 * i, shape, 3), "y": update(seed + 2 * i + 1, shape[::-1], 2)},
            "",
            grams={"x": Gram(update(seed + i, shape, 3).a, 0.5), "y": Gram(update(seed + i, shape[::-1], 3).a, 0.2)},
        )
        for i in range(count)
    ]


def same(left: Adapter, right: Adapter, tolerance: float = 1e-8) -> bool:
    assert left.factors.keys() == right.factors.keys()
    return all(close(left.factors[n].delta(), right.factors[n].delta(), tolerance) for n in left.factors)


@law
@given(SEED, SHAPE, RANKS, st.data())
def test_the_sum_is_linear_in_its_weights(seed: int, shape: tuple[int, int], ranks: list[int], data: Any) -> None:
    """Oracle 9. Red: stack omits the parts of negative weight."""
    parts = [update(seed + i, shape, r) for i, r in enumerate(ranks)]
    many = st.lists(WEIGHT, min_size=len(parts), max_size=len(parts))
    u, v, factor = data.draw(many), data.draw(many), data.draw(WEIGHT)
    both = stack(parts, [x + factor * y for x, y in zip(u, v, strict=True)]).delta()
    assert close(both, stack(parts, u).delta() + factor * stack(parts, v).delta())
    dense = [w * p.scaling * (p.b @ p.a) for w, p in zip(u, parts, strict=True)]
    assert close(stack(parts, u).delta(), torch.stack(dense).sum(dim=0))


@law
@given(SEED, SHAPE, st.integers(1, 6))
def test_an_update_and_its_opposite_cancel(seed: int, shape: tuple[int, int], rank: int) -> None:
    """Oracle 9. Red: stack takes the weights' absolute values."""
    f = update(seed, shape, rank)
    out = compress(stack([f, f], [1.0, -1.0]), None)
    assert float(out.factors.delta().abs().max()) < 1e-12 * float(f.delta().abs().max())
    nothing = compress(stack([f, f], [0.0, 0.0]), 3)
    assert nothing.factors.rank == 1 and nothing.energy_cut_frac == 0.0
    assert not nothing.factors.delta().any()


@law
@given(SEED, st.permutations(range(4)), st.sampled_from(BLIND))
def test_the_order_of_the_clients_does_not_matter(seed: int, order: list[int], chosen: dict[str, Any]) -> None:
    """Oracle 9. Red: the bases are those of QR, without the SVD behind it."""
    group, weights = adapters(seed, 4), [1.0, 2.0, 3.0, 4.0]
    options: dict[str, Any] = {**chosen, "rank": 5, "scale": 0.7}
    first = merge_adapters(group, weights, **options).adapter
    assert same(merge_adapters([group[i] for i in order], [weights[i] for i in order], **options).adapter, first)


@law
@given(SEED, st.integers(0, 2), st.sampled_from([*BLIND, {"method": "stack"}, {"method": "dare", "density": 0.5}]))
def test_a_weight_of_zero_is_absence(seed: int, place: int, chosen: dict[str, Any]) -> None:
    """Oracles 9 and 13. Red: parts at 0 enter the core space and take part in the draws."""
    group, weights = adapters(seed, 2), [3.0, 1.0]
    options: dict[str, Any] = {**chosen, "seed": seed}
    without = merge_adapters(group, weights, **options).adapter
    group.insert(place, adapters(seed + 100, 1)[0])
    weights.insert(place, 0.0)
    assert same(merge_adapters(group, weights, **options).adapter, without, 1e-15)


@law
@given(SEED, st.floats(0.1, 10), st.sampled_from(["mean", "ties", "dare", "tsv_m", "iso_c"]))
def test_only_ratios_of_weights_count_and_scale_multiplies(seed: int, factor: float, method: str) -> None:
    """Red: normalise_weights returns them as they came."""
    group, weights = adapters(seed, 3), [1.0, 2.0, 5.0]
    first = merge_adapters(group, weights, method=method, density=0.6).adapter
    scaled = merge_adapters(group, [factor * w for w in weights], method=method, density=0.6, scale=2.5).adapter
    assert all(close(scaled.factors[n].delta(), 2.5 * first.factors[n].delta()) for n in first.factors)


@law
@given(SEED, SHAPE, st.integers(1, 9), st.integers(1, 9), st.sampled_from([torch.float32, torch.float64]))
def test_compressed_factors_are_balanced_sorted_and_nested(
    seed: int, shape: tuple[int, int], rank: int, keep: int, dtype: torch.dtype
) -> None:
    """Red: B carries all of sigma. Red: largest_signs is always +1."""
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    out = compress(update(seed, shape, rank, dtype), None, scaling=0.5)
    a, b, values = out.factors.a, out.factors.b, out.singular_values
    assert a.dtype == b.dtype == dtype
    assert close(0.5 * a @ a.T, torch.diag(values), tolerance) and close(0.5 * b.T @ b, torch.diag(values), tolerance)
    assert bool((values.diff() <= 0).all())
    assert bool((b.gather(0, b.abs().argmax(dim=0, keepdim=True)) >= 0).all())
    assert close(leading(out.factors, keep)[0].delta(), compress(out.factors, keep).factors.delta(), tolerance)


@law
@given(SEED, st.integers(1, 5), st.integers(1, 7))
def test_leading_and_rest_add_up(seed: int, rank: int, keep: int) -> None:
    """Red: the first part is a view."""
    f = update(seed, (6, 8), rank)
    head, rest = leading(f, keep)
    assert head.rank == min(rank, keep) and (rest is None) == (keep >= rank)
    assert head.scaling == f.scaling
    assert close(head.delta() + (rest.delta() if rest is not None else 0), f.delta())
    head.a.zero_()
    assert bool(f.a.any(dim=1).all())


@law
@given(SEED, st.integers(1, 4), st.integers(0, 3), st.integers(1, 9))
def test_revived_directions_can_learn_and_change_nothing(seed: int, live: int, dead: int, rank: int) -> None:
    """Red: a zero B column is enough to count as dead."""
    f = compress(update(seed, (11, 12), live), None, scaling=2.0).factors
    f = Factors(
        torch.cat([f.a, 1e-9 * f.a[:1].repeat(dead, 1)]), torch.cat([f.b, f.b[:, :1].repeat(1, dead) * 0], 1), 2.0
    )
    out = revive(f, rank, torch.Generator().manual_seed(seed))
    assert out.rank == max(rank, live + dead)
    assert close(out.delta(), f.delta(), 1e-12)
    assert torch.equal(out.a[:live], f.a[:live]) and torch.equal(out.b[:, :live], f.b[:, :live])
    fresh = out.a[live:]
    assert not out.b[:, live:].any() and bool((fresh.abs() <= 1 / math.sqrt(12)).all())
    assert bool((fresh.norm(dim=1) > 0.05).all())
    again = revive(out, rank, torch.Generator().manual_seed(seed + 1))
    assert torch.equal(again.a, out.a)


@law
@given(SEED, SHAPE, RANKS)
def test_core_space_loses_nothing(seed: int, shape: tuple[int, int], ranks: list[int]) -> None:
    """Red: null directions stay. Red: no lifted_root where the ranks differ, or where they do not."""
    parts = [update(seed + i, shape, r) for i, r in enumerate(ranks)]
    parts.append(parts[0])
    space = core_space(parts)
    assert is_diagonal(space.left.T @ sum(f.delta() @ f.delta().T for f in parts) @ space.left)
    assert is_diagonal(space.right @ sum(f.delta().T @ f.delta() for f in parts) @ space.right.T)
    p, q = space.cores.shape[1:]
    assert p == torch.linalg.matrix_rank(torch.cat([f.delta() for f in parts], dim=1))
    assert q == torch.linalg.matrix_rank(torch.cat([f.delta() for f in parts], dim=0))
    assert close(space.left.T @ space.left, torch.eye(p).double()) and close(
        space.right @ space.right.T, torch.eye(q).double()
    )
    for f, core in zip(parts, space.cores, strict=True):
        assert close(from_core(space, core).delta(), f.delta(), 1e-4)
        assert from_core(space, core).rank == min(p, q)


@law
@given(SEED, SHAPE, st.sampled_from([1.0, 0.6, 1.3]), st.integers(1, 9))
def test_client_updates_are_the_dense_sum(
    seed: int, shape: tuple[int, int], server_learning_rate: float, rank: int
) -> None:
    """Red: `kept` ignores server_learning_rate. Red: `>=` in place of `>` (one direction too many)."""
    current = compress(update(seed, shape, 5), None, scaling=2.0).factors
    starts = [leading(current, r)[0] for r in (1, 3, 9, 9)]
    trained = [update(seed + i, shape, f.rank) for i, f in enumerate(starts)]
    trained[3] = stack([starts[3], update(seed, shape, 2)], [1.0, 0.1])
    weights = [5.0, 1.0, 2.0, 2.0]
    dense = current.delta()
    for w, f, s in zip(weights, trained, starts, strict=True):
        dense = dense + server_learning_rate * w / 10 * (f.delta() - s.delta())
    whole = aggregate_updates(current, trained, weights, 99, server_learning_rate)
    assert close(whole.factors.delta(), dense) and whole.factors.scaling == 2.0
    values = torch.linalg.svdvals(dense)
    cut = aggregate_updates(current, trained, weights, rank, server_learning_rate)
    assert cut.factors.rank == min(rank, *shape)
    assert abs(cut.energy_cut_frac - float(values[rank:].square().sum() / values.square().sum())) < 1e-10


@law
@given(SEED, st.integers(1, 3))
def test_ties_adds_experts_that_do_not_overlap(seed: int, rank: int) -> None:
    """Red: core_space leaves entries at rounding level as they are, so that their signs have a vote."""
    turns = [torch.linalg.qr(update(seed + i, (n, 1), n).b).Q for i, n in enumerate((11, 14))]
    parts = [update(seed + i, (5, 7), rank) for i in range(2)]
    spread = [
        Factors(f.a @ turns[1][:, 7 * i : 7 * i + 7].T, turns[0][:, 5 * i : 5 * i + 5] @ f.b, f.scaling)
        for i, f in enumerate(parts)
    ]
    merged = merge_adapters([Adapter({"x": f}, "") for f in spread], [0.9, 0.1], method="ties").adapter
    assert close(merged.factors["x"].delta(), spread[0].delta() + spread[1].delta())


def tail_energy(f: Factors, rank: int) -> float:
    return float(torch.linalg.svdvals(f.delta())[rank:].square().sum())


def test_client_updates_keep_what_the_small_clients_never_had() -> None:
    """Oracle 11. Red: every client counts as having received all of `current` (r_k = R_s)."""
    ranks, weights = [4, 4, 4, 16], [1.0] * 4
    start = compress(update(1, (40, 32), 16), None, scaling=2.0).factors
    kept, naive, beyond = start, start, tail_energy(start, 4)
    for _ in range(3):
        kept = aggregate_updates(kept, [leading(kept, r)[0] for r in ranks], weights, 16).factors
        naive = compress(mean([leading(naive, r)[0] for r in ranks], [0.25] * 4), 16, 2.0).factors
    assert close(kept.delta(), start.delta(), 1e-12)
    assert tail_energy(kept, 4) == pytest.approx(beyond, rel=1e-12)
    assert tail_energy(naive, 4) < 1e-3 * beyond


@law
@given(SEED, SHAPE, RANKS)
def test_knots_space_loses_nothing(seed: int, shape: tuple[int, int], ranks: list[int]) -> None:
    """Red: the left columns without their singular values."""
    parts = [update(seed + i, shape, r) for i, r in enumerate(ranks)]
    space = knots_space(parts)
    assert space.right is None and space.cores.shape[1] <= min(shape[0], sum(ranks))
    values = torch.linalg.svdvals(torch.cat([f.delta() for f in parts], dim=1))
    assert close(space.left.norm(dim=0), values[: space.left.shape[1]])
    for f, core in zip(parts, space.cores, strict=True):
        assert close(from_core(space, core).delta(), f.delta())


@law
@given(SEED, st.floats(0.05, 1.0))
def test_an_energy_is_kept_with_the_fewest_directions(seed: int, energy: float) -> None:
    """Red: rank_for_energy compares sums of sigma. Red: one direction too few."""
    merged = merge_adapters(adapters(seed, 3), energy=energy)
    for name, f in merged.adapter.factors.items():
        assert merged.energy_cut_frac[name] <= 1 - energy + 1e-12
        whole = merge_adapters(adapters(seed, 3)).adapter.factors[name]
        values = torch.linalg.svdvals(whole.delta()).square()
        if f.rank > 1 and energy < 1:
            assert float(values[: f.rank - 1].sum() / values.sum()) < energy


@law
@given(SEED, SHAPE, st.integers(1, 4), st.integers(1, 4))
def test_the_norm_is_that_of_the_matrix(seed: int, shape: tuple[int, int], rank: int, other: int) -> None:
    """Red: norm without the scaling. Red: A A^T and B^T B swapped in `inner`."""
    f, g = update(seed, shape, rank), update(seed + 1, shape, other)
    assert norm(f) == pytest.approx(float(f.delta().norm()), rel=1e-12)
    assert inner(f.b, f.a, g.b, g.a) == pytest.approx(float((f.b @ f.a * (g.b @ g.a)).sum()), rel=1e-9, abs=1e-9)


def test_opposite_weights_cancel_in_task_arithmetic() -> None:
    """Oracle 9. Red: task_arithmetic normalises its weights (refused, or 0 / 0)."""
    group = adapters(1, 1) * 2
    merged = merge_adapters(group, [1.0, -1.0], method="task_arithmetic").adapter
    assert all(float(f.delta().abs().max()) < 1e-12 for f in merged.factors.values())
    double = merge_adapters(group, [1.5, 0.5], method="task_arithmetic").adapter
    assert all(close(double.factors[n].delta(), 2 * f.delta()) for n, f in group[0].factors.items())
