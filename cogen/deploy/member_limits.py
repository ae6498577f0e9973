"""Limits for one member of the federation, counted by its key, whatever address it comes from."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cogen.deploy.limits import Buckets, HttpRefusal, Limits
from cogen.flower.fleet_requests import Sender

NUM_LARGE_BODIES = 2  # a node sends two objects at a time


@dataclass
class _Account:
    """What one member has under way: requests, and bytes of objects since SuperLink last gave it work."""

    num_requests: int = 0
    unread_bytes: int = 0
    large_bodies: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(NUM_LARGE_BODIES))


class MemberLimits:
    """One account for each node."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._accounts: dict[int, _Account] = {}
        self._requests = Buckets(limits.member_requests_per_minute)
        self._announcements = Buckets(limits.announcements_per_minute)
        self._refusals = Buckets(limits.refusals_per_minute)

    @contextmanager
    def request(self, sender: Sender) -> Iterator[None]:
        """A request for as long as it takes.

        Raises:
            HttpRefusal: 429, too many at once or in this minute.
        """
        account = self._of(sender)
        node = str(sender.node_id)
        if account.num_requests >= self._limits.member_requests or not self._requests.take(node):
            raise HttpRefusal(429)
        account.num_requests += 1
        try:
            yield
        finally:
            account.num_requests -= 1

    def refused(self, sender: Sender, status: int) -> HttpRefusal:
        """The refusal of a wrong request: `status`, or 429 when there were many."""
        return HttpRefusal(status if self._refusals.take(str(sender.node_id)) else 429)

    def large_body(self, sender: Sender) -> asyncio.Semaphore:
        """Held while an object of this member is in memory."""
        return self._of(sender).large_bodies

    def announce(self, sender: Sender) -> None:
        """Count an announcement; HttpRefusal 429 when there were too many."""
        if not self._announcements.take(str(sender.node_id)):
            raise HttpRefusal(429)

    def add_bytes(self, sender: Sender, num_bytes: int) -> None:
        """Count an object; HttpRefusal 413 when too much was sent since the last message for this member."""
        account = self._of(sender)
        account.unread_bytes += num_bytes
        if account.unread_bytes > self._limits.unread_bytes:
            raise HttpRefusal(413)

    def got_work(self, sender: Sender) -> None:
        """SuperLink has a new message for the member, which it may answer."""
        self._of(sender).unread_bytes = 0

    def _of(self, sender: Sender) -> _Account:
        return self._accounts.setdefault(sender.node_id, _Account())
