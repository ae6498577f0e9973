"""Requests whose node Flower gave up in a round: open again when it is back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from server.requests import OpenRequest
from server.transport import Answer

LOOK_SECONDS = 1.0


class LostNodes:
    """Flower gives a node up after a minute without a heartbeat, and takes nothing that it sends for a request then.

    The node has kept its reply, if it had one, and gives it at once when it is asked again.

    Args:
        connected: nodes that are there and may answer, and for which domain, where that is known.
        patience_seconds: how long it is worth waiting for one when no other answer is open.
    """

    def __init__(self, connected: Callable[[], Mapping[int, str]], patience_seconds: float) -> None:
        self.requests: dict[OpenRequest, Answer] = {}
        self._connected, self._patience_seconds = connected, patience_seconds
        self._looked = self._waited = 0.0

    def any_back(self) -> bool:
        """Whether a node is back; looks once a second."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return False
        self._looked = now
        return bool(self.back())

    def back(self) -> dict[int, OpenRequest]:
        """Requests whose node is back, by node."""
        if not self.requests:
            return {}
        nodes = self._connected()
        return {a.client.node: a for a in self.requests if nodes.get(a.client.node) in ("", a.domain)}

    def wait(self) -> bool:
        """Wait a little for one that is back; False when there is none to wait for, or no patience left."""
        if not self.requests or self._waited >= self._patience_seconds:
            return False
        time.sleep(LOOK_SECONDS)
        self._waited += LOOK_SECONDS
        return True
