"""What a plan says: time and bytes by hand, budgets, proposals, and the user's mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cogen.analysis.plan import CENTRALIZED, ONE_ROUND, RELAY, DomainRates, adapter_bytes, make_plan
from cogen.base import describe_base
from cogen.config import load_config
from tests.shell import Cogen, refused

MB = {"clinical": 1_000_000, "grid": 1_000_000, "materials": 4_000_000}
RATES = [
    DomainRates("clinical", 3600, 1.0, 8.0),  # an hour, and a second for each MB
    DomainRates("grid", 7200, 1.0, 8.0),
    DomainRates("materials", 3600, 2.0, 8.0),
]


def test_hours_and_bytes_are_those_of_the_slowest_or_of_all(config_file: Path) -> None:
    """Red: a relay takes the time of the slowest domain. Red: only what goes up is counted."""
    plan = make_plan(load_config(config_file), RATES, MB)
    one, relay, three, alone = plan.schedules
    assert [c.schedule for c in plan.schedules] == [ONE_ROUND, RELAY, RELAY, CENTRALIZED]
    assert one.hours == pytest.approx(2 + 2 / 3600)
    assert relay.hours == pytest.approx(1 + 2 + 0.5 + 12 / 3600)
    assert three.hours == pytest.approx(3.5 + 36 / 3600)
    assert alone.hours == pytest.approx((3600 + 7200 + 3600) / 2 / 3600)
    assert (one.megabytes, relay.megabytes, three.megabytes, alone.megabytes) == pytest.approx((4, 4, 12, 0))
    assert one.num_steps == -(-7200 // 128) and relay.num_steps == sum(-(-n // 128) for n in (3600, 7200, 3600))


def test_in_the_hours_of_one_round_a_relay_trains_less(config_file: Path) -> None:
    plan = make_plan(load_config(config_file), RATES, MB)
    one, relay, *_ = plan.schedules
    assert plan.budget_hours == one.hours and one.tokens_in_budget == 4800
    assert relay.tokens_in_budget == pytest.approx(4800 * (2 + 2 / 3600 - 12 / 3600) / 3.5, abs=1)
    wide = make_plan(load_config(config_file), RATES, MB, budget_hours=35.0)
    assert wide.schedules[1].tokens_in_budget == pytest.approx(48_000, rel=1e-3)


def test_the_relay_with_most_visits_that_ends_in_time_is_proposed(config_file: Path) -> None:
    config = load_config(config_file)
    assert 'schedule = "relay", num_rounds = 3' in make_plan(config, RATES, MB).proposal
    assert 'schedule = "relay", num_rounds = 1' in make_plan(config, RATES, MB, budget_hours=3.505).proposal
    assert 'schedule = "parallel"' in make_plan(config, RATES, MB, budget_hours=3.0).proposal


def test_bytes_are_those_of_the_adapter(config_file: Path) -> None:
    config = load_config(config_file)
    info = describe_base(config.base.name)
    expected = sum(4 * min(4, *shape) * sum(shape) for shape in info.modules.values())
    assert adapter_bytes(info, config, config.domains[0]) == expected
    small = load_config(config_file, ["federation.wire=int8"])
    assert adapter_bytes(info, small, small.domains[0]) == expected // 4


def test_the_command(cogen: Cogen, config_file: Path) -> None:
    code, out, _ = cogen("plan", config_file, "--rate", "100", "--rate", "grid=50", "--line", "8")
    assert code == 0 and "one round, side by side" in out and "proposal: " in out
    code, out, _ = cogen("plan", config_file, "--rate", "100", "--rate", "grid=50", "--json")
    first = json.loads(out)["schedules"][0]
    assert code == 0 and first["schedule"] == ONE_ROUND and first["hours"] == pytest.approx(1024 / 50 / 3600, rel=0.1)


@pytest.mark.parametrize("text", ["fast", "-1", "0", "nan", "inf", "moon=5", "grid=", "=5x"])
def test_a_rate_that_is_none_is_refused(cogen: Cogen, config_file: Path, text: str) -> None:
    refused(cogen("plan", config_file, "--rate", text), "expected [DOMAIN=]NUMBER above 0")
