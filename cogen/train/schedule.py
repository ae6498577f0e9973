"""Which blocks and steps of the run a round has, and the learning rate of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cogen.config import Train


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

    @property
    def total_blocks(self) -> int:
        """Blocks of all rounds."""
        return self.num_blocks * (self.total_steps // self.num_steps)

    def blocks_of(self, step: int) -> tuple[int, int]:
        """First block and number of blocks of the round's `step`; the last step may be smaller."""
        done = self.blocks_before(step)
        return self.first_block + done, min(self.batch_size, self.num_blocks - done)

    def blocks_before(self, step: int) -> int:
        """Blocks of the round's steps before `step`."""
        return min(step * self.batch_size, self.num_blocks)


def plan_round(settings: Train, round_number: int, num_rounds: int) -> RoundPlan:
    """The blocks and steps of round `round_number` (from 1) of `num_rounds`."""
    num_blocks = math.ceil(settings.tokens_per_round / settings.sequence_length)
    num_steps = math.ceil(num_blocks / settings.batch_size)
    before = round_number - 1
    return RoundPlan(
        round=round_number,
        first_block=before * num_blocks,
        num_blocks=num_blocks,
        first_step=before * num_steps,
        num_steps=num_steps,
        total_steps=num_rounds * num_steps,
        batch_size=settings.batch_size,
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
        progress = max(0, step + 1 - (total_steps - decay)) / decay
        return settings.learning_rate * (low + (1.0 - low) * (1.0 - math.sqrt(progress)))
    progress = (step - warmup + 1) / max(1, total_steps - warmup)
    return settings.learning_rate * (low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * progress)))
