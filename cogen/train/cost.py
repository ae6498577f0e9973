"""What a choice of settings costs, said before training starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cogen.adapter import Layout
from cogen.train.schedule import Plan

FLOAT_BYTES = 4  # factors and Adam's moments are float32 whatever the base's dtype
NUM_MOMENTS = 2


@dataclass(frozen=True)
class Cost:
    """Figures of one domain's training; an adapter's file has a few kilobytes of names on top."""

    num_parameters: int
    num_modules: int
    adapter_bytes: int
    optimizer_bytes: int
    num_steps: int
    num_tokens: int

    def __str__(self) -> str:
        return (
            f"{self.num_parameters / 1e6:.3g}M trainable parameters in {self.num_modules} modules"
            f" · adapter {self.adapter_bytes / 1e6:.3g} MB · optimiser {self.optimizer_bytes / 1e6:.3g} MB"
            f" · {self.num_steps} steps · {self.num_tokens} tokens"
        )


def cost_of(layouts: Mapping[str, Layout], plan: Plan, block_tokens: int) -> Cost:
    """Parameters r (d_in + d_out) of each module, and the steps and tokens of `plan`."""
    parameters = sum(layout.rank * (layout.d_in + layout.d_out) for layout in layouts.values())
    size = parameters * FLOAT_BYTES
    return Cost(parameters, len(layouts), size, NUM_MOMENTS * size, plan.num_steps, plan.num_blocks * block_tokens)
