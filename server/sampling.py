"""Which domains a round asks: drawn from the seed and the round's number alone, so that a resumed run draws the same."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence

from cogen.config import RunConfig


def draw(domains: Sequence[str], seed: int, number: int) -> list[str]:
    """All domains in the order of round `number`; the order in which they are given does not matter."""
    return random.Random(seed + number).sample(sorted(domains), len(domains))


def sample_size(config: RunConfig) -> int:
    """Domains that a round asks: their share rounded up, and at least as many as must answer."""
    share = math.ceil(config.federation.fraction_train * len(config.domains) - 1e-9)
    return max(share, config.min_valid_clients)


def choose(order: Sequence[str], size: int, there: Collection[str]) -> tuple[list[str], list[str]]:
    """The domains to ask, and those of the sample that cannot be asked.

    The first `size` of `order` are the sample; for each that is not `there` the next one that is takes its place.
    """
    missing = [domain for domain in order[:size] if domain not in there]
    return [domain for domain in order if domain in there][:size], missing
