"""How fast this machine trains: a few steps, timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cogen.config import Train
from cogen.data.pack import PackedStream
from cogen.train.loop import train_round
from cogen.train.lora import init_factors
from cogen.train.schedule import plan_round

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cogen.base import Base

NUM_STEPS = 2


def measure_rate(base: Base, documents: Sequence[NDArray[np.int32]], settings: Train) -> float:
    """Tokens a second of steps of one block; the first step, in which memory is set up, does not count.

    Args:
        documents: token ids with EOS, as for `PackedStream`.
    """
    steps = (1 + NUM_STEPS) * settings.block_tokens
    settings = settings.model_copy(update={"batch_blocks": 1, "tokens_per_round": steps})
    stream = PackedStream(documents, settings.block_tokens, settings.seed)
    start = init_factors(base.info.modules, settings.rank, settings.scaling, settings.seed)
    ends: list[float] = []
    train_round(
        base, start, stream, plan_round(settings, 1, 1), settings, on_step=lambda _: ends.append(time.monotonic())
    )
    return rate_between(ends, settings.block_tokens)


def rate_between(ends: Sequence[float], step_tokens: int) -> float:
    """Tokens a second from the end of the first step to that of the last."""
    return (len(ends) - 1) * step_tokens / max(ends[-1] - ends[0], 1e-9)
