"""What a run waits for, told from its events: nobody has to guess whether a silent run is stuck."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

SAY_SECONDS = 10.0


class Awaited:
    """The domains, or the program, that the next event of a run depends on.

    Args:
        clock: seconds; since when something is waited for.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._domains: list[str] = []
        self._open: set[str] = set()
        self._missing: list[str] = []
        self._done: set[str] = set()
        self._num_rounds = 0
        self._begin("Flower to start the server app")

    def see(self, event: Mapping[str, Any]) -> None:
        """Take an event into account."""
        self._said = self._clock()
        kind, number = event["event"], event.get("round", 0)
        if kind == "run_started":
            self._domains, self._num_rounds = list(event["domains"]), event["num_rounds"]
            self._begin("the domains to connect", self._domains)
        elif kind == "client_registry":
            self._missing = sorted(event["missing"])
            self._open = {client["domain"] for client in event["clients"]} - self._done
        elif kind == "round_started":
            self._begin(f"replies to round {number}", set(self._domains) - set(self._missing))
        elif kind == "visit_started":
            self._begin(f"the reply to a visit in round {number}", [event["domain"]])
        elif kind in ("client_replied", "client_dropped"):
            self._done.add(event["domain"])
            self._open.discard(event["domain"])
        elif kind == "client_retried":
            self._done.discard(event["domain"])
            self._open.add(event["domain"])
        elif kind == "round_finished":
            is_last = number == self._num_rounds
            self._begin(
                "scores" if is_last else f"round {number + 1} to begin", set(self._domains) - set(self._missing)
            )
        elif kind == "evaluated":
            self._begin("the run to end")

    def line(self) -> dict[str, Any] | None:
        """An event that says what is waited for and for how long, after SAY_SECONDS without another one."""
        now = self._clock()
        if now - self._said < SAY_SECONDS:
            return None
        self._said = now
        text = f"{self._what}: {', '.join(sorted(self._open))}" if self._open else self._what
        if self._missing:
            text += f" (not connected: {', '.join(self._missing)})"
        return {"event": "waiting", "text": text, "seconds": now - self._since}

    def _begin(self, what: str, open_domains: Iterable[str] = ()) -> None:
        self._what, self._open, self._done = what, set(open_domains), set()
        self._since = self._said = self._clock()
