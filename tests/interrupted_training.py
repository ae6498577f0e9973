"""Training that is interrupted, for tests of resuming it."""

from __future__ import annotations

from collections.abc import Callable

from cogen.train.loop import Step


class Interrupted(Exception):
    """Raised in place of a power failure."""


def interrupt_after(step: int) -> Callable[[Step], None]:
    """An `on_step` that interrupts training one step after `step`; the saved state has `step` steps."""

    def on_step(done: Step) -> None:
        if done.step > step:
            raise Interrupted

    return on_step
