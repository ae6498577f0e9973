"""Speedups of merging do not change results: threads, double-precision Gram matrices, checks for finite numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import current_thread

import pytest
import torch
from torch import Tensor

from cogen.adapter import Adapter, Factors
from cogen.adapter.factors import is_finite
from cogen.merge import compress, core_space, from_core, merge_adapters, stack
from cogen.merge.factored import numerical_rank
from cogen.parallel import in_parallel


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def update(seed: int, shape: tuple[int, int], rank: int) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, shape[1], generator=generator), torch.randn(shape[0], rank, generator=generator)
    return Factors(a=a, b=b, scaling=0.5)


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def test_results_come_in_order_from_threads_of_one(threads: int) -> None:
    """Red: as_completed in place of map. Red: threads are left at one."""
    found = list(in_parallel(lambda i: (i, torch.get_num_threads(), current_thread().name), range(20)))
    assert [i for i, _, _ in found] == list(range(20))
    assert {n for _, n, _ in found} == {1}
    assert all(name.startswith("cogen") for _, _, name in found)
    assert torch.get_num_threads() == threads


def test_the_first_failure_comes_out_and_later_modules_are_left(threads: int) -> None:
    """Red: without the flag, items that wait in the pool are begun until the caller hears of the failure."""
    begun = []

    def run(i: int) -> int:
        begun.append(i)
        if i == 2:
            raise ValueError("module 2")
        time.sleep(0.05)
        return i

    with pytest.raises(ValueError, match="module 2"):
        list(in_parallel(run, range(10_000)))
    assert len(begun) < 2 + 2 * threads
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("method", ["mean", "ties", "dare", "tsv_m", "iso_c"])
def test_the_bits_do_not_depend_on_threads(method: str) -> None:
    """Red: the number of threads is left as it is inside the pool."""
    before = torch.get_num_threads()
    adapters = [Adapter({f"m{i}": update(10 * k + i, (300, 500), 16) for i in range(6)}, "") for k in range(5)]
    found = []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            found.append(merge_adapters(adapters, method=method, density=0.5, rank=16).adapter)
    finally:
        torch.set_num_threads(before)
    assert found[0].digest == found[1].digest == found[2].digest


@pytest.mark.parametrize(("d_out", "d_in"), [(300, 500), (500, 300), (40, 500), (500, 40)])
@pytest.mark.parametrize("noise", [1.0, 1e-2, 1e-4, 0.0])
def test_a_cut_is_the_dense_one_when_experts_began_alike(d_out: int, d_in: int, noise: float) -> None:
    """Five experts whose A differ by `noise`: their Gram matrix is nearly or wholly singular.

    Red: the Gram matrix in float32. Red: no lift (Cholesky fails at noise 0).
    """
    first = update(0, (d_out, d_in), 16)
    parts = [update(k, (d_out, d_in), 16) for k in range(5)]
    parts = [Factors(first.a + noise * f.a, f.b, 0.5) for f in parts]
    whole = stack(parts, [0.2] * 5)
    exact = whole.b.double() @ whole.a.double()
    u, s, vh = torch.linalg.svd(exact, full_matrices=False)
    cut, kept = compress(whole, 8), compress(whole, None)
    assert relative(cut.factors.delta(), (u[:, :8] * s[:8]) @ vh[:8]) < 1e-6
    assert relative(kept.factors.delta(), exact) < 1e-6
    torch.testing.assert_close(
        kept.singular_values.double(), s[: len(kept.singular_values)], rtol=1e-6, atol=1e-6 * float(s[0])
    )
    assert numerical_rank(kept.singular_values) == (min(16 if noise == 0 else 80, d_out, d_in))


def test_shared_bases_of_nearly_equal_updates_are_orthonormal() -> None:
    """Red: Gram matrices in float32. Red: null directions stay."""
    first, other = update(0, (200, 150), 6), update(1, (200, 150), 6)
    near = Factors(first.a + 1e-3 * other.a, first.b + 1e-3 * other.b, 0.5)
    parts = [first, near, first]
    space = core_space(parts)
    assert space.right is not None
    assert space.left.shape == (200, 12) and space.right.shape == (12, 150)
    for basis in (space.left, space.right.T):
        assert relative(basis.T @ basis, torch.eye(12).double()) < 1e-6
    for f, core in zip(parts, space.cores, strict=True):
        assert relative(from_core(space, core).delta(), f.scaling * f.b.double() @ f.a.double()) < 1e-5


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 37, 999])
def test_one_bad_entry_is_seen(bad: float, place: int) -> None:
    """Red: only the largest entry is looked at (-inf passes)."""
    tensor = torch.randn(10, 100)
    assert is_finite(tensor) and is_finite(torch.zeros(0, 4))
    tensor.view(-1)[place] = bad
    assert not is_finite(tensor)
