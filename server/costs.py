"""What a round will cost every domain, written down before the first one is asked."""

from __future__ import annotations

from cogen.base import BaseInfo
from cogen.config import RunConfig
from cogen.runs import RunFolder
from cogen.train.cost import round_cost


def announce_costs(run: RunFolder, base: BaseInfo, config: RunConfig) -> None:
    """One event with the cost of a round by domain, on a machine like this one; in a simulation it is this one."""
    import torch

    at_once = min(config.federation.parallel_clients, len(config.domains))
    threads = max(1, torch.get_num_threads() // at_once)
    costs = {domain.name: vars(round_cost(base, config, domain, threads)) for domain in config.domains}
    run.append_event("round_costs", domains=costs)
