"""Which blocks and steps of the run a round has, and the learning rate of each step.

In rounds side by side, every client goes through the whole schedule of learning rates. In a relay the visits share one
schedule: each has the steps that come after those of the visits before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, model_validator

from cogen.config import Train
from cogen.records import Table

MOST_TOTAL_STEPS = 10**9


class Visit(Table):
    """Where in the schedule of learning rates a visit of a relay stands."""

    first_step: Annotated[int, Field(strict=True, ge=0, le=MOST_TOTAL_STEPS)]
    """Steps of the visits before it, in all rounds."""
    total_steps: Annotated[int, Field(strict=True, ge=1, le=MOST_TOTAL_STEPS)]
    """Steps of all visits of all rounds."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.first_step >= self.total_steps:
            raise ValueError(f"a visit at step {self.first_step} of {self.total_steps}")
        return self


@dataclass(frozen=True)
class RoundPlan:
    """The blocks of the stream and the steps of the schedule that one round has, both counted from 0."""

    round: int
    first_block: int
    num_blocks: int
    first_step: int
    num_steps: int
    total_steps: int
    batch_size: int
    total_blocks: int

    def blocks_of(self, step: int) -> tuple[int, int]:
        """First block and number of blocks of the round's `step`; the last step may be smaller."""
        done = self.blocks_before(step)
        return self.first_block + done, min(self.batch_size, self.num_blocks - done)

    def blocks_before(self, step: int) -> int:
        """Blocks of the round's steps before `step`."""
        return min(step * self.batch_size, self.num_blocks)


def plan_round(settings: Train, round_number: int, num_rounds: int, visit: Visit | None = None) -> RoundPlan:
    """The blocks and steps of round `round_number` (from 1) of `num_rounds`.

    Args:
        visit: of a relay; it decides the learning rates, and no block.
    """
    num_blocks = math.ceil(settings.tokens_per_round / settings.sequence_length)
    num_steps = math.ceil(num_blocks / settings.batch_size)
    before = round_number - 1
    return RoundPlan(
        round=round_number,
        first_block=before * num_blocks,
        num_blocks=num_blocks,
        first_step=before * num_steps if visit is None else visit.first_step,
        num_steps=num_steps,
        total_steps=num_rounds * num_steps if visit is None else visit.total_steps,
        batch_size=settings.batch_size,
        total_blocks=num_rounds * num_blocks,
    )


def learning_rate(settings: Train, step: int, total_steps: int) -> float:
    """Learning rate of optimizer step `step` (from 0) of `total_steps` over all rounds.

    Rises linearly to the peak over the warm-up (at least one step, so the first step is never 0). From there
    `cosine` follows half a cosine; `wsd` stays level and then falls by 1 - sqrt(x) over the last
    `decay_frac` of the steps. Both end at `min_lr_ratio` of the peak, at the last step.

    Source: wsd is that of Haegele et al. (arXiv 2405.18392), who find 1 - sqrt ahead of a linear fall, and
    level with cosine from a fifth of the steps on.
    """
    warmup = max(1, math.ceil(settings.warmup_frac * total_steps - 1e-9))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    low = settings.min_lr_ratio
    if settings.schedule == "wsd":
        decay = min(total_steps - warmup, max(1, math.ceil(settings.decay_frac * total_steps - 1e-9)))
        progress = min(1.0, max(0, step + 1 - (total_steps - decay)) / decay)
        return settings.learning_rate * (low + (1.0 - low) * (1.0 - math.sqrt(progress)))
    progress = min(1.0, (step - warmup + 1) / max(1, total_steps - warmup))
    return settings.learning_rate * (low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * progress)))
