"""Training cut off in the middle, for tests of what is left to go on from."""

from __future__ import annotations

from collections.abc import Callable

from cogen.train.loop import Step


class Cut(Exception):
    """The power goes off."""


def cut_after(step: int) -> Callable[[Step], None]:
    """An `on_step` that leaves a state of `step` steps done: one more was made, and is lost."""

    def on_step(done: Step) -> None:
        if done.step > step:
            raise Cut

    return on_step
