"""When work on a request stops: nobody waits for the reply, or it takes longer than the policy allows."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cogen.errors import FederationError
from cogen.node.policy import refused

Check = Callable[[], None]
"""Called at every step and every batch of windows; raises where work must stop."""


class AskerGone(FederationError):
    """The program that asked has closed its connection."""


def go_on() -> None:
    """A check that stops nothing."""


def is_gone(connection: socket.socket) -> bool:
    """Whether the other side has closed the connection."""
    closed = select.poll()
    closed.register(connection, 0)  # nothing but its end
    return bool(closed.poll(0))


def stop_when_gone(connection: socket.socket) -> Check:
    """A check that raises AskerGone once the other side of `connection` is gone."""

    def check() -> None:
        if is_gone(connection):
            fix = "A repeated request goes on from the last saved state."
            raise AskerGone("work stopped", expected="a program that waits for the reply", got="none", fix=fix)

    return check


def stop_after(seconds: float, check: Check) -> Check:
    """`check`, and PolicyError once `seconds` are over from now; 0 is no limit."""
    until = time.monotonic() + seconds

    def both() -> None:
        check()
        if seconds and time.monotonic() > until:
            raise refused(f"work of up to {seconds:g} s", "a request that takes longer")

    return both


class Turns:
    """Who works now: one at a time; a small request goes before large ones, and each kind in the order of arrival."""

    LOOK_SECONDS = 0.2

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[int, int]] = []
        self._count, self._is_busy = 0, False

    @contextmanager
    def taken(self, *, is_small: bool, check: Check = go_on) -> Iterator[None]:
        """Wait for the turn, and have it while the block runs.

        Args:
            check: called while waiting; what it raises ends the wait.
        """
        with self._changed:
            self._count += 1
            place = (0 if is_small else 1, self._count)
            self._waiting.append(place)
            try:
                while self._is_busy or min(self._waiting) != place:
                    self._changed.wait(self.LOOK_SECONDS)
                    check()
            except BaseException:
                self._changed.notify_all()
                raise
            finally:
                self._waiting.remove(place)
            self._is_busy = True
        try:
            yield
        finally:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
