"""DARE: drop entries at random and rescale the rest, then take the weighted sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def dare(cores: Tensor, weights: Sequence[float], density: float, generator: torch.Generator) -> Tensor:
    """sum_i w_i m_i x_i / density, with m_i ~ Bernoulli(density) for every entry.

    Unbiased: the expectation over the generator is sum_i w_i x_i. Which entries are dropped
    depends on the order of the parts, but the distribution does not.

    Args:
        cores: `(K, p, q)`, see `core_space`.
        weights: K weights, taken as they are.
        density: the fraction kept, in (0, 1]; 1 is the plain weighted sum.
        generator: the only source of randomness; on the CPU.
    Returns: `(p, q)`.
    Source: DARE (arXiv 2311.03099).
    """
    import torch

    # Drawn in one dtype, so that a seed drops the same entries in float32 and float64.
    draws = torch.rand(cores.shape, generator=generator, dtype=torch.float64)
    kept = (draws < density).to(cores)
    w = cores.new_tensor(list(weights))[:, None, None]
    return (w * kept * cores).sum(dim=0) / density
