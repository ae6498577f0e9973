"""What a domain allows: limits, hours, and log lines that may leave it."""

from __future__ import annotations

import tomllib
from datetime import datetime
from pathlib import Path

import pytest

from cogen.config import parse_config
from cogen.errors import ConfigError, PolicyError
from cogen.node.policy import TEMPLATE, Policy, Sent, allow, allow_round, read_policy
from cogen.protocol.settings import WorkSettings, work_settings

NOTHING = Sent(frozenset(), 0)


def settings(**train: object) -> WorkSettings:
    values = {"domains": [{"name": "grid", "data": "/private/corpus"}], "train": {"rank": 8, **train}}
    config = parse_config(values, "test")
    return work_settings(config, config.domains[0])


def at(clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-03-01T{clock}:00")


def test_the_file_that_is_made_says_the_defaults_and_no_other_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    assert read_policy(path) == Policy()
    assert path.read_text() == TEMPLATE
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


def test_limits_of_a_round_hold_at_their_value_and_not_beyond() -> None:
    asked = settings(tokens_per_round=1000)
    allow_round(Policy(max_rank=8, max_tokens_per_round=1000), asked, 1, 50, NOTHING)
    with pytest.raises(PolicyError, match="rank up to 7, got 8"):
        allow_round(Policy(max_rank=7), asked, 1, 50, NOTHING)
    with pytest.raises(PolicyError, match="up to 999 tokens a round, got 1000"):
        allow_round(Policy(max_tokens_per_round=999), asked, 1, 50, NOTHING)


def test_limits_of_a_run_count_rounds_once_and_bytes_each_time() -> None:
    sent = Sent(frozenset({1, 2}), 100)
    allow_round(Policy(max_rounds_per_run=2), settings(), 2, 50, sent)
    with pytest.raises(PolicyError, match="up to 2 rounds"):
        allow_round(Policy(max_rounds_per_run=2), settings(), 3, 50, sent)
    allow_round(Policy(max_bytes_up_per_run=150), settings(), 2, 50, sent)
    with pytest.raises(PolicyError, match="up to 150 bytes of a run, got 151"):
        allow_round(Policy(max_bytes_up_per_run=150), settings(), 2, 51, sent)


@pytest.mark.parametrize("key", ["replay", "annealing"])
def test_a_coordinator_names_no_file_of_this_machine(key: str) -> None:
    """Red: a run that replays /var/lib/records would train what the domain never offered."""
    with pytest.raises(PolicyError, match=f"train.{key}") as caught:
        allow_round(Policy(), settings(**{key: "/var/lib/records"}), 1, 50, NOTHING)
    assert "/var" not in str(caught.value)
    allow_round(Policy(), settings(**{key: "hf://datasets/org/text"}), 1, 50, NOTHING)
