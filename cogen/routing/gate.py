"""The gate: which domain a text is nearest to, by the mean of the base's states. Pure: numbers in, numbers out.

Legend: K domains, d hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cogen.adapter.gate import GateStatistics
from cogen.errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor

SHARPNESS, FULL_TOKENS = 60.0, 64
"""How fast the chances fall with the distance, and from how many tokens on; fitted to held-out text of six textbooks
(`benchmarks/LOG.md`)."""


@dataclass(frozen=True)
class Gate:
    """Nearest mean, in units of the spread of the states.

    distance_k = mean over the d directions of (x - mean_k)^2 / v, with v the mean of the domains' variances;
    chance_k = softmax over the domains of -SHARPNESS * sqrt(min(n, FULL_TOKENS) / FULL_TOKENS) * distance_k,
    for a mean over n tokens.

    Args:
        means: `(K, d)`. variance: `(d,)`.
    """

    names: tuple[str, ...]
    means: Tensor
    variance: Tensor

    @classmethod
    def of(cls, statistics: Mapping[str, GateStatistics]) -> Gate:
        """The gate of some domains. It depends on no domain but these.

        Raises:
            AdapterError: the statistics have several lengths, so they come from several bases.
        """
        import torch

        sizes = {len(s.mean) for s in statistics.values()}
        if len(sizes) != 1:
            got = " and ".join(map(str, sorted(sizes))) or "none"
            fix = "Use experts of one base."
            raise AdapterError("cannot make a gate", expected="statistics of one length", got=got, fix=fix)
        means, variances = (torch.stack([getattr(s, p) for s in statistics.values()]) for p in ("mean", "variance"))
        return cls(tuple(statistics), means.double(), variances.double().mean(0))

    def distances(self, state: Tensor) -> Tensor:
        """Of a text with mean state `(d,)` from each domain, `(K,)`."""
        return ((state.double() - self.means).square() / self.variance).mean(1)

    def chances(self, state: Tensor, num_tokens: int) -> dict[str, float]:
        """How likely it is that a text is of each domain; they add up to 1.

        Args:
            state: its mean state `(d,)`, over `num_tokens` tokens.
        """
        import torch

        sharpness = SHARPNESS * math.sqrt(min(num_tokens, FULL_TOKENS) / FULL_TOKENS)
        found = torch.softmax(-sharpness * self.distances(state), 0)
        return dict(zip(self.names, found.tolist(), strict=True))


@dataclass(frozen=True)
class Choice:
    """What the gate chose for a text.

    Args:
        expert: the name of the domain.
        chance: how sure the gate is, from 1 / K to 1.
    """

    expert: str
    chance: float

    def __str__(self) -> str:
        return f"{self.expert} ({self.chance:.0%})"


def likeliest(chances: Mapping[str, float]) -> Choice:
    """The domain with the highest chance; of equal ones the first."""
    name = max(chances, key=lambda n: chances[n])
    return Choice(name, chances[name])
