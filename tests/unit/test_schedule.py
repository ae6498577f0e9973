"""Learning rate and rounds: values by hand, and one schedule for any number of rounds."""

from __future__ import annotations

import math

import pytest

from cogen.config import Train
from cogen.train.schedule import learning_rate, plan_round

PEAK = 0.004


def settings(**values: float | str) -> Train:
    return Train.model_validate(
        {"learning_rate": PEAK, "warmup_frac": 0.2, "min_lr_ratio": 0.1, "sequence_length": 8, **values}
    )


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, PEAK / 4),  # 4 of 20 steps warm up
        (1, PEAK / 2),
        (3, PEAK),
        (7, PEAK * (0.1 + 0.9 * 0.5 * (1 + math.sqrt(0.5)))),  # a quarter of the cosine's 16 steps: cos(pi / 4)
        (11, PEAK * 0.55),  # half: the mean of 1 and 0.1
        (15, PEAK * (0.1 + 0.9 * 0.5 * (1 - math.sqrt(0.5)))),
        (19, PEAK * 0.1),
    ],
)
def test_the_rate_by_hand(step: int, expected: float) -> None:
    assert learning_rate(settings(), step, 20) == pytest.approx(expected, rel=1e-12)


def test_the_rate_rises_to_one_peak_and_falls() -> None:
    rates = [learning_rate(settings(), s, 20) for s in range(20)]
    assert rates[:4] == sorted(rates[:4]) and rates[3:] == sorted(rates[3:], reverse=True)
    assert len(set(rates)) > 15 and max(rates) == PEAK


def test_without_warm_up_the_first_step_is_the_peak() -> None:
    rates = [learning_rate(settings(warmup_frac=0), s, 5) for s in range(5)]
    assert rates[0] == PEAK and rates[2] == pytest.approx(0.55 * PEAK) and rates[4] == pytest.approx(0.1 * PEAK)


def test_warm_up_alone_ends_at_the_peak() -> None:
    assert [learning_rate(settings(warmup_frac=1), s, 4) for s in range(4)] == [PEAK * n / 4 for n in (1, 2, 3, 4)]


def test_a_single_step_trains_at_the_peak() -> None:
    assert learning_rate(settings(), 0, 1) == PEAK


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, PEAK / 4),  # 4 of 20 steps warm up
        (3, PEAK),
        (4, PEAK),
        (15, PEAK),  # level until the last 4 steps
        (16, PEAK * (0.1 + 0.9 * 0.5)),  # 1 - sqrt(1 / 4)
        (17, PEAK * (0.1 + 0.9 * (1 - math.sqrt(0.5)))),
        (18, PEAK * (0.1 + 0.9 * (1 - math.sqrt(0.75)))),
        (19, PEAK * 0.1),
    ],
)
def test_wsd_by_hand(step: int, expected: float) -> None:
    """Red: a linear fall; a fall that begins a step late; the share taken of the steps after the warm-up."""
    assert learning_rate(settings(schedule="wsd", decay_frac=0.2), step, 20) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num_rounds", [2, 3, 6])
def test_wsd_falls_at_the_end_of_all_rounds(num_rounds: int) -> None:
    """12 steps: 3 warm up, 3 fall. Red: plans that fall at the end of each round."""
    cut = settings(schedule="wsd", decay_frac=0.25, tokens_per_round=192 / num_rounds, batch_size=2)
    plans = [plan_round(cut, n, num_rounds) for n in range(1, num_rounds + 1)]
    rates = [learning_rate(cut, p.first_step + s, p.total_steps) for p in plans for s in range(p.num_steps)]
    assert rates[2:9] == [PEAK] * 7 and rates[9:] == sorted(rates[9:], reverse=True) and rates[9] < PEAK


def test_wsd_without_a_level_part_and_of_few_steps() -> None:
    whole = settings(schedule="wsd", warmup_frac=0.2, decay_frac=0.8)
    assert learning_rate(whole, 3, 20) == PEAK > learning_rate(whole, 4, 20)
    assert learning_rate(whole, 0, 1) == PEAK
    assert [learning_rate(whole, s, 2) for s in (0, 1)] == [PEAK, pytest.approx(0.1 * PEAK)]
    with pytest.raises(ValueError, match=r"train\.warmup_frac and train\.decay_frac add up to more than 1"):
        settings(schedule="wsd", warmup_frac=0.3, decay_frac=0.8)


@pytest.mark.parametrize(("final", "last"), [(0.0, 0.0), (1.0, PEAK)])
def test_the_last_step_is_the_final_fraction(final: float, last: float) -> None:
    assert learning_rate(settings(min_lr_ratio=final), 19, 20) == pytest.approx(last, abs=1e-18)


@pytest.mark.parametrize("num_rounds", [1, 2, 3, 6])
def test_rounds_are_one_schedule_without_a_restart(num_rounds: int) -> None:
    whole = settings(tokens_per_round=192, batch_size=2)  # 24 blocks, 12 steps
    cut = settings(tokens_per_round=192 / num_rounds, batch_size=2)
    once = plan_round(whole, 1, 1)
    rounds = [plan_round(cut, n, num_rounds) for n in range(1, num_rounds + 1)]
    assert once.total_steps == 12
    assert [learning_rate(cut, p.first_step + s, p.total_steps) for p in rounds for s in range(p.num_steps)] == [
        learning_rate(whole, s, once.total_steps) for s in range(12)
    ]
    assert [p.blocks_of(s) for p in rounds for s in range(p.num_steps)] == [once.blocks_of(s) for s in range(12)]


def test_blocks_of_rounds_are_contiguous_and_the_last_step_of_each_is_smaller() -> None:
    uneven = settings(tokens_per_round=50, batch_size=3)  # 7 blocks of 8 tokens, steps of 3, 3 and 1
    plans = [plan_round(uneven, n, 3) for n in (1, 2, 3)]
    assert [p.blocks_of(s) for p in plans for s in range(p.num_steps)] == [
        *[(0, 3), (3, 3), (6, 1)],
        *[(7, 3), (10, 3), (13, 1)],
        *[(14, 3), (17, 3), (20, 1)],
    ]
    assert [(p.round, p.first_block, p.num_blocks, p.first_step, p.num_steps, p.total_steps) for p in plans] == [
        (1, 0, 7, 0, 3, 9),
        (2, 7, 7, 3, 3, 9),
        (3, 14, 7, 6, 3, 9),
    ]


@pytest.mark.parametrize(
    ("tokens", "num_blocks", "num_steps"), [(1, 1, 1), (8, 1, 1), (9, 2, 1), (32, 4, 1), (33, 5, 2)]
)
def test_tokens_are_rounded_up_to_blocks_and_blocks_to_steps(tokens: int, num_blocks: int, num_steps: int) -> None:
    plan = plan_round(settings(tokens_per_round=tokens, batch_size=4), 1, 1)
    assert (plan.num_blocks, plan.num_steps) == (num_blocks, num_steps)
