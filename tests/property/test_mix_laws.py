"""Laws of mixing: the share is exact in every stretch, and the index of a block determines its origin."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cogen.data.pack import MixedStream, step_batches, train_batch

SHARES = st.sampled_from([0.05, 0.1, 0.25, 0.3, 0.5, 0.9, 1.0]) | st.integers(1, 999).map(lambda n: n / 1000)
FIRST = st.integers(0, 40)


def law(test: Callable[..., None]) -> Any:
    """The same 60 examples on every run, with no limit on time."""
    return settings(max_examples=60, deadline=None, derandomize=True, database=None)(test)


class Numbered:
    """Block i of two tokens: the stream's own number and i."""

    sequence_length = 2

    def __init__(self, number: int) -> None:
        self.number = number

    def segments(self, index: int) -> list[NDArray[np.int32]]:
        return [np.array([self.number, index], dtype=np.int32)]


def origins(stream: MixedStream, indices: list[int]) -> list[tuple[int, ...]]:
    return [tuple(stream.segments(i)[0].tolist()) for i in indices]


@law
@given(SHARES, FIRST, st.integers(1, 400))
def test_both_are_read_in_order_and_none_of_their_blocks_is_dropped(share: float, first: int, count: int) -> None:
    """Red: `main` read at the mixture's own index."""
    read = origins(MixedStream(Numbered(0), Numbered(1), share, first), list(range(count)))
    for number in (0, 1):
        mine = [index for origin, index in read if origin == number]
        assert mine == list(range(len(mine)))
    assert all(origin == 0 for origin, _ in read[:first])


@law
@given(SHARES, FIRST, st.integers(0, 5000), st.integers(1, 500))
def test_every_stretch_has_its_share_to_within_a_block(share: float, first: int, start: int, length: int) -> None:
    """Red: a coin is tossed for each block; the share rounded to 1/16."""
    stream = MixedStream(Numbered(0), Numbered(1), share, first)
    begin = first + start
    found = sum(origin for origin, _ in origins(stream, list(range(begin, begin + length))))
    assert abs(found - length * Fraction(repr(share))) <= 1


@pytest.mark.parametrize("share", [0.05, 0.07, 0.3, 1 / 3])
def test_over_a_long_run_the_share_is_exact(share: float) -> None:
    """A float product drifts: 0.07 * 10**15 blocks would already be off by several."""
    stream = MixedStream(Numbered(0), Numbered(1), share)
    for count in (1_000_000, 10**15, 10**21):
        assert stream.num_other(count) == math.floor(count * Fraction(repr(share)) + Fraction(1, 2))


@law
@given(SHARES, FIRST)
def test_a_block_is_the_same_whatever_was_read_before(share: float, first: int) -> None:
    indices = list(range(120))
    straight = origins(MixedStream(Numbered(0), Numbered(1), share, first), indices)
    shuffled = random.Random(0).sample(indices, len(indices))
    jumping = dict(zip(shuffled, origins(MixedStream(Numbered(0), Numbered(1), share, first), shuffled), strict=True))
    assert [jumping[i] for i in indices] == straight


def test_where_replayed_blocks_lie_by_hand() -> None:
    """5%: the middle of each twenty. Then half of the end: every second block, and 5% of the rest goes on."""
    replayed = MixedStream(Numbered(0), Numbered(1), 0.05)
    assert [i for i, (origin, _) in enumerate(origins(replayed, list(range(60)))) if origin] == [9, 29, 49]
    whole = MixedStream(replayed, Numbered(2), 0.5, first_block=40)
    read = origins(whole, list(range(64)))
    assert [origin for origin, _ in read[40:46]] == [2, 0, 2, 0, 2, 0]
    assert [i for i, (origin, _) in enumerate(read) if origin == 1] == [9, 29, 59]  # the 50th that is not of the end


@law
@given(st.integers(0, 30), st.integers(1, 12), st.integers(1, 12))
def test_parts_of_a_step_are_its_blocks_in_order(first: int, num_blocks: int, num_parts: int) -> None:
    """Red: the last part dropped where the blocks do not divide evenly."""
    parts = step_batches(Numbered(0), first, num_blocks, num_parts)
    whole = train_batch(Numbered(0), first, num_blocks)
    assert [t for b in parts for t in b.tokens.tolist()] == whole.tokens.tolist()
    sizes = [len(b.lengths) for b in parts]
    assert len(sizes) == min(num_parts, num_blocks) and max(sizes) - min(sizes) <= 1
    assert sum(b.num_predicted for b in parts) == whole.num_predicted == num_blocks
