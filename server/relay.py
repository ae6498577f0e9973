"""A relay: one adapter visits the domains in turn, and each trains it on from where the one before it stopped.

One round visits every domain once, in a new random order. The learning rates run over all visits of all rounds, as if the
text of all domains were in one place. A domain that is away when its turn comes is passed over and visited at the end of
the round. Each visit is saved when it ends, so that a run that was killed goes on with the next one.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from cogen.adapter import Factors
from cogen.config import RunConfig
from cogen.errors import ReplyError
from cogen.protocol.factors import through_wire
from cogen.train.schedule import Visit
from server.aggregate import Aggregated, aggregate
from server.checkpoint import forget_visits, load_visits, save_round, save_visit
from server.replies import ClientUpdate, far_above
from server.requests import OpenRequest, draw, no_reply
from server.rounds import Coordinator
from server.scoring import Earlier

LOOK_SECONDS = 1.0
Model = dict[str, Factors]


class RelayCoordinator(Coordinator):
    """One start of a run whose schedule is a relay."""

    def _round(self, number: int) -> None:
        """Visit every domain once; the round's folder appears when it is complete."""
        began = time.monotonic()
        order = [d for d in draw(self.domains, self.config.train.seed, number) if d not in self.registry.suspended]
        self.run.append_event("round_started", round=number, order=order)
        updates, now = self._resumed_visits(number)
        visited = {update.domain for update in updates}
        bytes_down = self._bytes_down(now) * len(updates)
        if not updates:
            self._gather(number)
        left = [domain for domain in order if domain not in visited]
        while left and (domain := self._next(number, left)) is not None:
            left.remove(domain)
            bytes_down += self._bytes_down(now)
            if (update := self._visit(number, domain, now, updates)) is None:
                continue
            now = self._after(number, now, update)
            updates.append(update)
            self.failures.pop(domain, None)
            save_visit(self.run, self.base, number, update, len(updates), now)
        for domain in left:
            error = no_reply("a node to ask", self.registry.why_missing(domain), domain)
            self._drop(number, error, domain, fails=domain in self.registry.silent)
        if len(updates) < self.config.min_valid_clients:
            raise self._failed(number, "visits", f"{len(updates)} of {len(self.domains)}")
        result = Aggregated(now, [], 0.0)
        save_round(self.run, self.config, self.base, number, updates, result)
        forget_visits(self.run)
        self._forget_rounds(number)
        self._report_round(number, updates, result, bytes_down, time.monotonic() - began)

    def _earlier(self) -> dict[int, Earlier]:
        """The first round, in a simulation; a joined domain does not know what others trained."""
        return {} if self.registry.has_members else super()._earlier()

    def _resumed_visits(self, number: int) -> tuple[list[ClientUpdate], Model]:
        """The visits of this round that an earlier start of the run has saved, and the adapter after them.

        Their events are written again, since a round that begins again forgets them.
        """
        updates, now = load_visits(self.run, number)
        for update in updates:
            rank = max(f.rank for f in update.factors.values())
            sizes = {"rank": rank, "bytes_down": self._bytes_down(update.factors)}
            self.run.append_event("client_replied", round=number, **sizes, **update.event())
        return updates, now or self.global_factors(number - 1)

    def _next(self, number: int, left: Sequence[str]) -> str | None:
        """The domain to visit now: the first of `left` that is connected, or the first that connects; None for none.

        A domain that is passed over has an event that says why.
        """
        waited = self.config.federation.connect_wait_seconds
        until = time.monotonic() + waited
        while True:
            self.registry.update(len(self.domains), 0.0)
            here = [d for d in left if d in self._available()]
            if here:
                for domain in left[: left.index(here[0])]:
                    reason = self.registry.why_missing(domain)
                    self.run.append_event("visit_postponed", round=number, domain=domain, reason=reason)
                return here[0]
            if time.monotonic() >= until:
                return None
            time.sleep(min(LOOK_SECONDS, waited))

    def _visit(self, number: int, domain: str, now: Model, earlier: Sequence[ClientUpdate]) -> ClientUpdate | None:
        """Have one domain train the adapter on; None where no valid reply came, which an event explains."""
        visit = visit_of(self.config, number, {update.domain for update in earlier})
        collection = self._collection(number, now, 1, visit)
        client = self.registry.clients[domain]
        deadline = self.config.federation.round_deadline_seconds
        self.run.append_event("visit_started", round=number, domain=domain, visit=len(earlier) + 1)
        if not collection.send({client.node: OpenRequest(client, number, now)}, deadline):
            self._drop(number, no_reply("Flower to send its message", "a refusal", domain), domain, fails=True)
            return None
        updates = collection.collect()
        if not updates:
            return None
        error = outlier(updates[0], earlier, self.config.federation.max_norm_ratio)
        if error is not None:
            self._drop(number, error, domain, fails=True)
            return None
        return updates[0]

    def _after(self, number: int, now: Model, update: ClientUpdate) -> Model:
        """The adapter that the next domain gets: as this one left it, in the same factors.

        A domain that trains fewer directions changes those alone; its update is added to the whole adapter.
        """
        if all(f.rank == now[name].rank for name, f in update.factors.items()):
            return dict(update.factors)
        return through_wire(aggregate(self.config, now, [update], number).factors, self.wire)


def visit_of(config: RunConfig, number: int, visited: Collection[str]) -> Visit:
    """Where in the learning rates the next visit of round `number` stands, after those of `visited`.

    What the config asks counts, not what a policy cut it to, so that a resumed run has the same learning rates.
    """
    steps = {d.name: config.steps_of(d) for d in config.domains}
    first = (number - 1) * sum(steps.values()) + sum(steps[name] for name in visited)
    return Visit(first_step=first, total_steps=config.federation.num_rounds * sum(steps.values()))


def outlier(update: ClientUpdate, earlier: Sequence[ClientUpdate], max_ratio: float) -> ReplyError | None:
    """Why the update of a visit is far above those of earlier visits of the round; None where it is not.

    Of fewer than two earlier visits nothing can be said.
    """
    norms = [u.norm for u in earlier]
    return far_above(update, norms, max_ratio, "the median of the round's visits") if len(norms) > 1 else None
