"""Which domains a round asks. The draw depends on the seed and the round number alone, so a resumed run draws the same."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence

from cogen.config import RunConfig


def draw(domains: Sequence[str], seed: int, number: int) -> list[str]:
    """All domains in a random order for round `number`; the order of `domains` does not matter."""
    return random.Random(seed + number).sample(sorted(domains), len(domains))


def sample_size(config: RunConfig) -> int:
    """How many domains a round asks: `fraction_train` of them, rounded up, and at least `min_valid_clients`."""
    share = math.ceil(config.federation.fraction_train * len(config.domains) - 1e-9)
    return max(share, config.min_valid_clients)


def choose(order: Sequence[str], size: int, available: Collection[str]) -> tuple[list[str], list[str]]:
    """The domains to ask, and the domains of the sample that cannot be asked.

    The first `size` of `order` are the sample. A domain that is not available is replaced by the next one that is.
    """
    missing = [domain for domain in order[:size] if domain not in available]
    return [domain for domain in order if domain in available][:size], missing
