"""How the base sees a text: the mean of its last hidden states, which tells domains apart.

Of all layers the last one does it best (`benchmarks/LOG.md`). The first token of a text is not counted: attention puts
on it what it has no use for, whatever the text. Legend: d hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from cogen.adapter.gate import GateStatistics
from cogen.data.pack import Batch, Stream, train_batch
from cogen.train.isolation import use_segment_attention
from cogen.train.passes import autocast
from cogen.train.step import hidden_states

if TYPE_CHECKING:
    from torch import Tensor

    from cogen.base import Base

STATISTICS_TOKENS = 8192
"""Tokens of a domain's text that its statistics are taken over, at most."""
GATE_TOKENS = 128
"""Tokens of a prompt that the gate reads, from its start."""
SMALLEST_VARIANCE = 2.0**-14  # float16 holds it with all its digits


def text_states(base: Base, batch: Batch) -> Tensor:
    """The base's last hidden states of all tokens but the first of each segment: `(N - num_segments, d)` in float32.

    No adapter may be attached. A segment of one token keeps it.
    """
    import torch

    use_segment_attention(base.model)
    with torch.no_grad(), autocast(base.model):
        hidden = hidden_states(base.model, batch).float().cpu()
    return torch.cat([piece[1:] if len(piece) > 1 else piece for piece in torch.split(hidden, list(batch.lengths))])


def gate_statistics(
    base: Base, stream: Stream, num_blocks: int, num_tokens: int, on_block: Callable[[int], None] | None = None
) -> GateStatistics:
    """Mean and variance of the states of a domain's text, rounded to float16.

    The blocks that are read lie evenly among the `num_blocks`: neighbours are often of one document, and a mean over few
    documents tells domains apart much worse.

    Args:
        num_blocks: blocks of the stream that the domain trains.
        num_tokens: tokens to read, at most; at least one block.
        on_block: called with the number of blocks done.
    """
    blocks = gate_blocks(num_blocks, num_tokens, stream.sequence_length)
    return statistics_of(base, (train_batch(stream, block, 1) for block in blocks), on_block)


def gate_blocks(num_blocks: int, num_tokens: int, sequence_length: int) -> list[int]:
    """The blocks that statistics are taken over: up to `num_tokens`, evenly from the first `num_blocks`, at least one."""
    count = max(1, min(num_blocks, num_tokens // sequence_length))
    return [i * num_blocks // count for i in range(count)]


def statistics_of(base: Base, texts: Iterable[Batch], on_text: Callable[[int], None] | None = None) -> GateStatistics:
    """Mean and variance of the states of texts, rounded to float16.

    Args:
        on_text: called with the number of texts done.
    """
    import torch

    total = squares = torch.zeros(1, dtype=torch.float64)
    count = num_tokens = 0
    for number, text in enumerate(texts, 1):
        states = text_states(base, text).double()
        total, squares, count = total + states.sum(0), squares + states.square().sum(0), count + len(states)
        num_tokens += len(text.tokens)
        if on_text is not None:
            on_text(number)
    mean = total / max(count, 1)
    variance = (squares / max(count, 1) - mean.square()).clamp_min(SMALLEST_VARIANCE)
    return GateStatistics(mean.half().float(), variance.half().float(), num_tokens)


def mean_state(base: Base, tokens: Sequence[int]) -> tuple[Tensor, int]:
    """The mean state `(d,)` of the first `GATE_TOKENS` of a text, and over how many tokens.

    Args:
        tokens: ids of the text, after BOS or EOS (`Base.start_id`).
    """
    import numpy as np

    read = np.array(tokens[: GATE_TOKENS + 1], dtype=np.int64)
    states = text_states(base, Batch(tokens=read, targets=read, lengths=(len(read),)))
    return states.mean(0), len(states)
