"""What each schedule of a federation takes and what it can be expected to give, before anything is trained.

Time and bytes are arithmetic from each domain's tokens, rate and line. What a schedule gives is measured on textbooks
(`benchmarks/LOG.md`): the share of the gain of all text in one place, at equal tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cogen.base import BaseInfo
from cogen.config import Domain, RunConfig
from cogen.console import duration, table
from cogen.train.start import select_modules

BITS = 8
ONE_ROUND, RELAY, CENTRALIZED = "one round, side by side", "relay", "all text in one place"
# Shares of the gain of one place: six textbooks of 30,720 tokens and four of 15,360 gave 0.70 and 0.74 by TSV-M in one
# round; in a relay the four gave 0.95 with one visit a domain, and 0.96 with three while moments stay at the domains.
GAIN = {(ONE_ROUND, 1): 0.72, (RELAY, 1): 0.95, (RELAY, 3): 0.96, (CENTRALIZED, 1): 1.0}


@dataclass(frozen=True)
class DomainRates:
    """One domain's part of a plan: its tokens in the whole run, how fast it trains, and its line.

    Args:
        tokens_per_second: of training. megabits_per_second: of its line, both ways.
    """

    name: str
    num_tokens: int
    tokens_per_second: float
    megabits_per_second: float


@dataclass(frozen=True)
class ScheduleCost:
    """What one schedule takes for the tokens of the plan.

    Args:
        visits: of each domain; for one round 1.
        num_steps: optimizer steps one after the other.
        hours: from start to end, transfers included.
        megabytes: each domain sends and gets in all.
        tokens_in_budget: tokens a domain, on average, that the schedule trains within the budget of hours.
        gain_share: of what one place with all text gains over the base, at equal tokens.
    """

    schedule: str
    visits: int
    num_steps: int
    hours: float
    megabytes: float
    tokens_in_budget: int
    gain_share: float


@dataclass(frozen=True)
class Plan:
    """The schedules of a config, and the one to take."""

    budget_hours: float
    schedules: tuple[ScheduleCost, ...]
    proposal: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def adapter_bytes(info: BaseInfo, config: RunConfig, domain: Domain) -> int:
    """Of the factors that a domain sends once, as `federation.wire` has them."""
    rank, size = config.rank_of(domain), 1 if config.federation.wire == "int8" else 4
    shapes = select_modules(info.modules, config.train).values()
    return sum(min(rank, *shape) * sum(shape) * size for shape in shapes)


def make_plan(
    config: RunConfig, rates: Sequence[DomainRates], num_bytes: Mapping[str, int], budget_hours: float | None = None
) -> Plan:
    """Compare one round side by side, relays and one place.

    Args:
        num_bytes: of an adapter, by domain.
        budget_hours: within which the run should end; None takes what one round side by side needs for these tokens.
    """
    train = {r.name: r.num_tokens / r.tokens_per_second / 3600 for r in rates}
    send = {r.name: 2 * num_bytes[r.name] * BITS / (r.megabits_per_second * 1e6) / 3600 for r in rates}
    step_tokens = config.train.batch_size * config.train.sequence_length
    steps = [-(-r.num_tokens // step_tokens) for r in rates]
    mean_megabytes = sum(2 * num_bytes[r.name] for r in rates) / len(rates) / 1e6
    mean_tokens = sum(r.num_tokens for r in rates) / len(rates)
    side_by_side = max(train[r.name] + send[r.name] for r in rates)
    budget = side_by_side if budget_hours is None else budget_hours

    def cost(
        schedule: str, visits: int, num_steps: int, hours: float, transfer: float, megabytes: float
    ) -> ScheduleCost:
        """`hours` of training and `transfer` hours, of which only the first shrink with the tokens."""
        left = max(0.0, budget - transfer)
        tokens = int(mean_tokens * left / hours) if hours else 0
        return ScheduleCost(schedule, visits, num_steps, hours + transfer, megabytes, tokens, GAIN[schedule, visits])

    slowest = max(rates, key=lambda r: train[r.name] + send[r.name]).name
    found = [cost(ONE_ROUND, 1, max(steps), train[slowest], send[slowest], mean_megabytes)]
    for visits in (1, 3):
        transfer, megabytes = visits * sum(send.values()), visits * mean_megabytes
        found.append(cost(RELAY, visits, sum(steps), sum(train.values()), transfer, megabytes))
    fastest = max(r.tokens_per_second for r in rates)
    alone = sum(r.num_tokens for r in rates) / fastest / 3600
    found.append(cost(CENTRALIZED, 1, sum(steps), alone, 0.0, 0.0))
    return Plan(budget, tuple(found), _proposal(found, budget_hours))


def _proposal(found: Sequence[ScheduleCost], budget_hours: float | None) -> str:
    """One line: the relay with most visits that ends in time, else one round side by side."""
    relays = [c for c in found if c.schedule == RELAY and (budget_hours is None or c.hours <= budget_hours)]
    if relays:
        best = max(relays, key=lambda c: (c.gain_share, -c.megabytes))
        return f'schedule = "relay", num_rounds = {best.visits}: {duration(best.hours * 3600)} for all domains in turn'
    one = found[0]
    return f'schedule = "parallel", num_rounds = 1: {duration(one.hours * 3600)}; no relay ends in time'


def format_plan(plan: Plan) -> str:
    """A table of the schedules, and the proposal."""
    rows = [["schedule", "visits", "steps in a row", "time", "MB a domain", "gain", "tokens in the budget"]]
    for c in plan.schedules:
        time, share = duration(c.hours * 3600), f"{100 * c.gain_share:.0f}%"
        rows.append(
            [c.schedule, str(c.visits), str(c.num_steps), time, f"{c.megabytes:.1f}", share, f"{c.tokens_in_budget:,}"]
        )
    return "\n".join(
        [
            table(rows, num_left=1),
            f"\ntokens in the budget: what each schedule trains a domain, on average, in {duration(plan.budget_hours * 3600)}",
            "gain: the share of what one place with all text gains, at equal tokens, measured on textbooks (benchmarks/LOG.md)",
            "a relay of a real federation needs every domain's consent: share_expert = true and fresh_starts = false",
            f"proposal: {plan.proposal}",
        ]
    )
