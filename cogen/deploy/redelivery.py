"""Work that SuperLink has given away and that may not have arrived: it is handed out again until its node goes on.

SuperLink gives each message once. Where the answer that carries it is lost on the way, nobody would ever work on it,
and its round would wait until the deadline.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """An answer of SuperLink's that carries a message."""

    content: bytes
    headers: dict[str, str]


class Redelivery:
    """Work by node, the oldest first; more than one piece only where two questions of a node were open at once."""

    def __init__(self) -> None:
        self._held: dict[str, deque[Work]] = {}
        self._out: set[str] = set()

    def add(self, node: str, work: Work) -> None:
        """Keep what SuperLink has given away for `node`."""
        self._held.setdefault(node, deque()).append(work)

    def take(self, node: str) -> Work | None:
        """The oldest work of `node`, as long as it has not arrived."""
        held = self._held.get(node)
        if not held:
            return None
        self._out.add(node)
        return held[0]

    def arrived(self, node: str) -> None:
        """The node has gone on: what it was handed last need not be handed out again."""
        if node in self._out:
            self._out.discard(node)
            self._held[node].popleft()
