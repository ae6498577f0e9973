"""How fast this machine trains, measured over a few steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cogen.config import Train
from cogen.data.pack import PackedStream
from cogen.train.fast.training import can_be_fast, shares_rows
from cogen.train.loop import train_round
from cogen.train.schedule import plan_round
from cogen.train.start import start_factors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cogen.base import Base

NUM_STEPS = 2


def measure_rate(base: Base, documents: Sequence[NDArray[np.int32]], settings: Train) -> float:
    """Tokens per second, over steps with as many blocks as are computed at once, without the slower first step.

    Args:
        documents: token ids with EOS, as for `PackedStream`.
    """
    step_blocks, _ = blocks_at_once(base, settings)
    num_tokens = (1 + NUM_STEPS) * step_blocks * settings.sequence_length
    settings = settings.model_copy(
        update={"batch_size": step_blocks, "gradient_accumulation_steps": 1, "tokens_per_round": num_tokens}
    )
    stream = PackedStream(documents, settings.sequence_length, settings.seed)
    start = start_factors(base.info.modules, settings, base.info.embeddings)
    ends: list[float] = []
    train_round(
        base, start, stream, plan_round(settings, 1, 1), settings, on_step=lambda _: ends.append(time.monotonic())
    )
    return rate_between(ends, step_blocks * settings.sequence_length)


def blocks_at_once(base: Base, settings: Train) -> tuple[int, bool]:
    """Blocks whose activations are in memory at a time, and whether the layers are the fast ones.

    Fast layers compute one block in each thread; the layers of transformers compute a micro-batch at a time.
    """
    import torch

    is_fast = can_be_fast(base.model, settings.cpu_kernels) and shares_rows(base.model)
    return live_blocks(settings, torch.get_num_threads(), is_fast)


def live_blocks(settings: Train, num_threads: int, is_fast: bool) -> tuple[int, bool]:
    """The result of `blocks_at_once` for a machine with `num_threads`."""
    if is_fast:
        return min(settings.batch_size, num_threads), True
    return -(-settings.batch_size // settings.gradient_accumulation_steps), False


def rate_between(ends: Sequence[float], step_tokens: int) -> float:
    """Tokens per second from the end of the first step to the end of the last."""
    return (len(ends) - 1) * step_tokens / max(ends[-1] - ends[0], 1e-9)
