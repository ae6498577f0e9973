"""The rounds of a run: ask the clients, check their replies, aggregate the updates, checkpoint; then score.

This is a plain loop and not a Flower Strategy. `Strategy.start` counts from 1, waits without limit for a minimum of nodes,
and goes on when every client has failed. A run here resumes at any round, has a deadline, and ends with an error when a
round has too few valid replies.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cogen.adapter import Adapter, Factors
from cogen.base import BaseInfo, describe_base
from cogen.config import RunConfig, load_config
from cogen.errors import FederationError, ReplyError
from cogen.protocol.factors import num_bytes, through_wire, wire_of_start
from cogen.protocol.messages import SuspendRequest
from cogen.runs import RunFolder, read_lines
from cogen.train.cost import round_cost
from cogen.train.schedule import Visit
from server.aggregate import Aggregated, aggregate, first_global
from server.best_round import candidates, domains_that_know
from server.checkpoint import forget_rounds, save_final, save_round, save_routed, save_start
from server.client_registry import ClientRegistry, Members
from server.collection import Collection
from server.replies import ClientUpdate, norm_outliers
from server.requests import OpenRequest, choose, draw, no_reply, sample_size
from server.scoring import Earlier, score_everywhere
from server.state import load_states
from server.transport import Transport
from server.validation import Validation

if TYPE_CHECKING:
    from flwr.serverapp import Grid

HELLO_SECONDS, SIMULATED_HELLO_SECONDS = 60.0, 300.0  # in a simulation Ray starts its workers before it answers


class Coordinator:
    """One start of a run.

    Args:
        members: node to domain, enrolled and not revoked; None in a simulation.
    Attributes:
        stragglers: requests of the last round that may still be answered.
    """

    def __init__(self, grid: Grid, run: RunFolder, members: Members | None = None) -> None:
        self.run = run
        config = load_config(run.config)
        self.config = config if members is None else config.deployed()
        self.base = describe_base(self.config.base.name)
        self.domains, self.wire = [d.name for d in self.config.domains], self.config.federation.wire
        self.transport = Transport(grid, lambda reason: run.append_event("reply_rejected", reason=reason))
        hello_seconds = HELLO_SECONDS if members else SIMULATED_HELLO_SECONDS
        self.registry = ClientRegistry(self.transport, run, self.config, members, hello_seconds)
        self.validation = Validation(self.config)
        self.failures: Counter[str] = Counter()
        self.stragglers: dict[str, OpenRequest] = {}

    def run_all(self) -> None:
        """Every round that is left, then the merged adapter and the matrix."""
        done, rounds = self.run.last_complete_round(), self.config.federation.num_rounds
        self.run.append_event(
            "run_started",
            run=self.run.path.name,
            base=self.base.name,
            domains=self.domains,
            schedule=self.config.federation.schedule,
            num_rounds=rounds,
            resumed=self.run.events_path.is_file(),
        )
        # Before the first hello: in a simulation the clients' processes are still starting.
        if not self.run.round(0).exists():
            save_start(self.run, self.base, first_global(self.base, self.config))
        announce_costs(self.run, self.base, self.config)
        self.registry.update(len(self.domains), self.config.federation.connect_wait_seconds)
        self._forget_rounds(done)
        for number in range(done + 1, rounds + 1):
            self._round(number)
        final = save_final(self.run, self.config)
        # A domain that lost its connection now would miss its row of the matrix: no next round asks it again.
        self.registry.update(len(self.registry.clients), self.config.federation.connect_wait_seconds)
        earlier = self._earlier()
        best = score_everywhere(self.run, self.config, self.transport, self.registry, final, earlier)
        if best in earlier:
            earlier[best].adapter.save(self.run.merged)
        if self.config.federation.result == "routed":
            missing = save_routed(self.run, self.registry.sharing)
            kept = [d for d in self.domains if d not in missing and self.run.expert(d).is_dir()]
            self.run.append_event("routed", domains=kept, missing=missing)

    def _earlier(self) -> dict[int, Earlier]:
        """The rounds that may be better than the last one."""
        events = read_lines(self.run.events_path)
        found = {}
        for number in candidates(events, self.config.federation.num_rounds):
            domains = domains_that_know(events, number) if self.registry.has_members else self.domains
            if (place := self.run.round(number) / "global").is_dir() and domains:
                found[number] = Earlier(Adapter.load(place), domains)
        return found

    def _round(self, number: int) -> None:
        """One round; its folder appears when it is complete."""
        began = time.monotonic()
        self.run.append_event("round_started", round=number)
        self._gather(number)
        current = self.global_factors(number - 1)
        collection = self._collection(number, current)
        num_asked = self._ask(collection)
        updates = self._without_outliers(number, collection.collect())
        for update in updates:
            self.failures.pop(update.domain, None)
        waits = self.config.federation.stragglers == "next"
        self.stragglers = {i: r for i, r in collection.open.items() if waits and r.round == number}
        if len(updates) < self.config.min_valid_clients:
            raise self._failed(number, "valid replies", f"{len(updates)} of {len(self.domains)}")
        result = aggregate(self.config, current, updates, number, load_states(self.run.round(number - 1)))
        result = replace(result, factors=through_wire(result.factors, self.wire))  # what domains get is what is kept
        save_round(self.run, self.config, self.base, number, updates, result)
        self._forget_rounds(number)
        self._report_round(number, updates, result, self._bytes_down(current) * num_asked, time.monotonic() - began)

    def global_factors(self, number: int) -> dict[str, Factors]:
        """The global adapter after round `number`; of round 0, the start of the run."""
        return dict(Adapter.load(self.run.round(number) / "global").factors)

    def _bytes_down(self, start: Mapping[str, Factors]) -> int:
        """Of one request to train from `start`."""
        return num_bytes(start, wire_of_start(start, self.wire))

    def _without_outliers(self, number: int, updates: Sequence[ClientUpdate]) -> list[ClientUpdate]:
        """The client updates whose norm is not far above the round's median; each of the others is dropped."""
        errors = norm_outliers(updates, self.config.federation.max_norm_ratio)
        for domain, error in errors.items():
            self._drop(number, error, domain, fails=True)
        return [update for update in updates if update.domain not in errors]

    def _forget_rounds(self, last: int) -> None:
        """Remove what the config does not keep of the rounds up to `last`."""
        if keep := self.config.federation.keep_rounds:
            events, rounds = read_lines(self.run.events_path), self.config.federation.num_rounds
            forget_rounds(self.run, last, keep, candidates(events, min(last, rounds)))

    def _gather(self, number: int) -> None:
        """Wait, for a limited time, until enough domains for a round are connected."""
        needed = self.config.min_valid_clients
        self.registry.update(len(self.domains), 0.0)
        if len(self._available()) < needed <= len(self.domains) - len(self.registry.suspended):
            self.registry.update(needed, self.config.federation.min_connected_wait_seconds)
        if len(self._available()) < needed:
            got = f"{len(self._available())} of {len(self.domains)}"
            raise self._failed(number, "domains that can be asked", got)

    def _available(self) -> list[str]:
        return [d for d in self.registry.clients if d not in self.registry.suspended]

    def _collection(
        self, number: int, current: Mapping[str, Factors], num_needed: int | None = None, visit: Visit | None = None
    ) -> Collection:
        def drop(error: ReplyError, domain: str) -> None:
            self._drop(number, error, domain, fails=True)

        about = (self.config, self.run, self.transport, self.registry, self.validation, self.base.fingerprint)
        return Collection(*about, number, current, drop, num_needed, visit)

    def _ask(self, collection: Collection) -> int:
        """Send the round's requests; returns how many. Stragglers that may still reply are not asked again."""
        number = collection.number
        open_ = {i: r for i, r in self.stragglers.items() if self.registry.owns(r.client.node, r.domain)}
        busy = {request.domain for request in open_.values()}
        order = draw(self.domains, self.config.train.seed, number)
        order = [d for d in order if d not in self.registry.suspended]
        chosen, missing = choose(order, sample_size(self.config), {*self.registry.clients, *busy})
        for domain in sorted(missing):
            error = no_reply("a node to ask", self.registry.why_missing(domain), domain)
            self._drop(number, error, domain, fails=domain in self.registry.silent)
        clients = (self.registry.clients[d] for d in sorted(chosen) if d not in busy)
        requests = {c.node: OpenRequest(c, number, collection.current) for c in clients}
        collection.open |= open_
        sent = collection.send(requests, self.config.federation.round_deadline_seconds)
        for domain in sorted({r.domain for r in requests.values()} - {r.domain for r in sent.values()}):
            self._drop(number, no_reply("Flower to send its message", "a refusal", domain), domain, fails=True)
        return len(sent)

    def _drop(self, number: int, error: ReplyError, domain: str, *, fails: bool) -> None:
        """Write down why a client is not in the round; `max_failures` failures in a row suspend the domain."""
        self.run.append_event("client_dropped", round=number, domain=domain, reason=str(error))
        if not fails:
            return
        self.failures[domain] += 1
        if self.failures[domain] >= self.config.federation.max_failures and domain not in self.registry.suspended:
            self.registry.suspended.add(domain)
            reason = f"no valid reply in {self.failures[domain]} rounds in a row"
            self.run.append_event("client_suspended", round=number, domain=domain, reason=reason)
            self._tell_suspended(number, domain)

    def _tell_suspended(self, number: int, domain: str) -> None:
        """Tell the domain's node, if it is connected; its reply is not waited for."""
        if (client := self.registry.clients.get(domain)) is None:
            return
        run, failures = self.registry.run_name, self.failures[domain]
        request = SuspendRequest(run=run, round=number, num_failures=failures)
        self.transport.send({client.node: request}, self.config.federation.round_deadline_seconds)

    def _report_round(
        self, number: int, updates: Sequence[ClientUpdate], result: Aggregated, bytes_down: int, seconds: float
    ) -> None:
        names = [u.domain for u in updates]
        weights = {"weights": dict(zip(names, result.weights, strict=True))} if result.weights else {}
        norms = {"norms": dict(zip(names, result.norms, strict=True))} if result.norms else {}
        self.run.append_event(
            "round_finished",
            round=number,
            num_valid=len(updates),
            num_clients=len(self.domains),
            num_tokens=sum(u.num_tokens for u in updates),
            bits_per_byte_before=_mean(u.figures.bits_per_byte_before for u in updates),
            bits_per_byte_after=_mean(u.figures.bits_per_byte_after for u in updates),
            bytes_up=sum(u.bytes_up for u in updates),
            bytes_down=bytes_down,
            energy_cut_frac=result.energy_cut_frac,
            seconds=seconds,
            **weights,
            **norms,
        )

    def _failed(self, number: int, wanted: str, got: str) -> FederationError:
        return FederationError(
            f"round {number} failed",
            expected=f"at least {self.config.min_valid_clients} {wanted}",
            got=got,
            where=str(self.run.events_path),
            fix="The reasons are there; mend them and run again with --resume.",
        )


def announce_costs(run: RunFolder, base: BaseInfo, config: RunConfig) -> None:
    """Write one event with the cost of a round by domain, on a machine like this one."""
    import torch

    threads = max(1, torch.get_num_threads() // config.parallel_clients)
    costs = {domain.name: vars(round_cost(base, config, domain, threads)) for domain in config.domains}
    run.append_event("round_costs", domains=costs)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
