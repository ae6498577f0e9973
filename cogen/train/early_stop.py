"""When to stop: bits per byte on documents suspended, the best factors kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cogen.adapter import Factors
from cogen.config import Train
from cogen.train.state import Best


def is_due(num_done: int, num_steps: int, settings: Train) -> bool:
    """Whether the model is scored after `num_done` of `num_steps` steps: at every interval, and at the end."""
    return num_done % settings.early_stop_every == 0 or num_done == num_steps


def better(
    best: Best | None, bits_per_byte: float, num_done: int, factors: Callable[[], Mapping[str, Factors]]
) -> Best:
    """The new best, or the old one and one more evaluation that did not beat it."""
    if best is None or bits_per_byte < best.bits_per_byte:
        return Best(factors(), bits_per_byte, num_done)
    return Best(best.factors, best.bits_per_byte, best.step, best.num_worse + 1)


def is_over(best: Best | None, settings: Train) -> bool:
    """Whether patience has run out."""
    return best is not None and best.num_worse >= settings.early_stop_patience
