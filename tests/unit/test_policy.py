"""What a domain allows: limits, hours, and log lines that may leave it."""

from __future__ import annotations

import tomllib
from datetime import datetime
from pathlib import Path

import pytest

from cogen.errors import ConfigError, PolicyError
from cogen.node.policy import TEMPLATE, Policy, allow, read_policy


def at(clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-03-01T{clock}:00")


def test_the_file_that_is_made_says_the_defaults_and_no_other_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    assert read_policy(path) == Policy()
    assert path.read_text() == TEMPLATE
    assert Policy.model_validate(tomllib.loads(TEMPLATE) | {"target_modules": (), "bases": ()}) == Policy()
    assert set(tomllib.loads(TEMPLATE)) == set(Policy.model_fields)
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_is_read_anew_and_a_mistake_in_it_allows_nothing(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("max_rank = 4\n")
    assert read_policy(path).max_rank == 4
    path.write_text("max_rank = 2\n")
    assert read_policy(path).max_rank == 2
    for text in ("max_rnak = 4", "max_rank = -1", 'hours = "nights"', 'hours = "22:00"', "train = 'maybe'"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="expected"):
            read_policy(path)


@pytest.mark.parametrize(("limit", "is_allowed"), [(0, True), (0.5, True), (1, True), (0.49, False), (1.01, False)])
def test_a_limit_of_the_own_audit_is_none_or_from_guessing_to_certain(
    tmp_path: Path, limit: float, is_allowed: bool
) -> None:
    """Red: a limit below 0.5, which nearly every adapter is above."""
    path = tmp_path / "policy.toml"
    path.write_text(f"max_membership_auc = {limit}\n")
    if is_allowed:
        assert read_policy(path).max_membership_auc == limit
    else:
        with pytest.raises(ConfigError, match="max_membership_auc"):
            read_policy(path)


@pytest.mark.parametrize(
    ("hours", "clock", "open_"),
    [
        ("22:00-06:00", "21:59", False),
        ("22:00-06:00", "22:00", True),
        ("22:00-06:00", "05:59", True),
        ("22:00-06:00", "06:00", False),
        ("08:00-18:00", "07:59", False),
        ("08:00-18:00", "08:00", True),
        ("08:00-18:00", "18:00", False),
        ("", "12:00", True),
    ],
)
def test_hours_hold_over_midnight(hours: str, clock: str, open_: bool) -> None:
    policy = Policy(hours=hours)
    if open_:
        allow(policy, "train", "tiny", at(clock))
    else:
        with pytest.raises(PolicyError, match=hours):
            allow(policy, "train", "tiny", at(clock))


def test_each_kind_of_work_is_allowed_apart() -> None:
    with pytest.raises(PolicyError, match="expected no train"):
        allow(Policy(train=False), "train", "tiny")
    allow(Policy(train=False), "evaluate", "tiny")
    with pytest.raises(PolicyError, match="expected no evaluate"):
        allow(Policy(evaluate=False), "evaluate", "tiny")
    with pytest.raises(PolicyError, match="numbers of evaluation"):
        allow(Policy(evaluation_leaves=False), "evaluate", "tiny")
    allow(Policy(evaluation_leaves=False), "train", "tiny")
    with pytest.raises(PolicyError, match="one of the bases small"):
        allow(Policy(bases=("small",)), "train", "tiny")
    allow(Policy(bases=("small", "tiny")), "train", "tiny")
