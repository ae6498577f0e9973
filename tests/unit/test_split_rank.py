"""The part of the global factors that a client of another rank trains, and the part that it holds frozen.

Factors of whole numbers, so that sums and products are exact. "Red" names a change of the code, made
once by hand, under which the test fails.
"""

from __future__ import annotations

import torch

from cogen.adapter import Factors
from cogen.base import Base
from cogen.node.round_start import split_rank
from cogen.train.lora import init_factors

SHAPES = {"wide": (6, 20), "tall": (20, 5)}


def whole_numbers(rank: int) -> dict[str, Factors]:
    g = torch.Generator().manual_seed(rank)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randint(1, 9, shape, generator=g).float()

    return {n: Factors(draw(rank, i), draw(o, rank), 0.5) for n, (o, i) in SHAPES.items()}


def test_a_smaller_rank_trains_the_leading_directions(tiny: Base) -> None:
    """Red: the last directions; the rest dropped; the scaling of the rest another."""
    current = whole_numbers(4)
    start, rest = split_rank(current, 3, seed=1)
    assert rest is not None and set(start) == set(rest) == set(current)
    for name, f in current.items():
        assert (start[name].rank, rest[name].rank) == (3, 1)
        assert torch.equal(start[name].a, f.a[:3]) and torch.equal(start[name].b, f.b[:, :3])
        assert torch.equal(start[name].delta() + rest[name].delta(), f.delta())
        assert rest[name].delta().abs().max() > 0


def test_parts_are_copies(tiny: Base) -> None:
    """Training a part must not move the global factors."""
    for rank in (2, 4, 5):
        current, kept = whole_numbers(4), whole_numbers(4)
        start, rest = split_rank(current, rank, seed=1)
        for f in (*start.values(), *(rest or {}).values()):
            f.a.zero_()
            f.b.zero_()
        for name, f in kept.items():
            assert torch.equal(current[name].a, f.a) and torch.equal(current[name].b, f.b), rank


def test_a_larger_rank_adds_directions_that_change_nothing_yet(tiny: Base) -> None:
    """Their B is 0 and their A is not: nothing changes, and a gradient comes through.

    Red: both drawn; both zero (no gradient, ever); the fresh rows put first.
    """
    current = whole_numbers(2)
    start, rest = split_rank(current, 5, seed=1)
    assert rest is None
    for name, f in current.items():
        assert (start[name].rank, start[name].scaling, start[name].shape) == (5, f.scaling, f.shape)
        assert torch.equal(start[name].a[:2], f.a) and torch.equal(start[name].b[:, :2], f.b)
        assert torch.equal(start[name].b[:, 2:], torch.zeros(f.shape[0], 3))
        assert bool((start[name].a[2:].abs().amax(dim=1) > 0).all())
        assert torch.equal(start[name].delta(), f.delta())


def test_fresh_directions_follow_the_seed_alone(tiny: Base) -> None:
    """A round repeated gives the same start; another round, or module, another."""
    current = whole_numbers(2)
    once, again, other = (split_rank(current, 5, seed=s)[0] for s in (1, 1, 2))
    assert torch.equal(once["wide"].a, again["wide"].a)
    assert not torch.equal(once["wide"].a, other["wide"].a)
    assert torch.equal(once["wide"].a[2:], init_factors(SHAPES, 5, 0.5, 1)["wide"].a[2:])


def test_an_equal_rank_is_left_as_it_is(tiny: Base) -> None:
    current = whole_numbers(4)
    start, rest = split_rank(current, 4, seed=1)
    assert rest is None and list(start) == list(current)
    for name, f in current.items():
        assert torch.equal(start[name].a, f.a) and torch.equal(start[name].b, f.b)
        assert start[name].scaling == f.scaling


def test_a_rank_beyond_a_module_is_held_to_it(tiny: Base) -> None:
    start, rest = split_rank(whole_numbers(2), 50, seed=1)
    assert rest is None
    assert {n: f.rank for n, f in start.items()} == {"wide": 6, "tall": 5}


def test_modules_are_cut_each_by_its_own_rank(tiny: Base) -> None:
    """One module is above the client's rank, one at it, and only the first has a rest."""
    current = {"wide": whole_numbers(4)["wide"], "tall": whole_numbers(3)["tall"]}
    start, rest = split_rank(current, 3, seed=1)
    assert rest is not None and set(rest) == {"wide"}
    assert {n: f.rank for n, f in start.items()} == {"wide": 3, "tall": 3}
    assert torch.equal(start["wide"].delta() + rest["wide"].delta(), current["wide"].delta())
    assert torch.equal(start["tall"].delta(), current["tall"].delta())
