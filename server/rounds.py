"""The rounds of a run: ask the clients, check, aggregate client updates, checkpoint; then score.

A plain loop rather than a Flower Strategy: `Strategy.start` counts from 1, waits without limit for a
minimum of nodes, and goes on when every client has failed; a run here resumes at any round, has a
deadline, and ends with an error when a round has too few valid replies.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from cogen.adapter import Adapter, Factors
from cogen.base import describe_base
from cogen.config import load_config
from cogen.errors import FederationError, ReplyError
from cogen.protocol.wire import Frame
from cogen.runs import RunFolder
from server.aggregate import Aggregated, aggregate, first_global
from server.checkpoint import forget_rounds, save_final, save_round, save_start
from server.client_registry import ClientRegistry, Members
from server.costs import announce_costs
from server.lost_nodes import LostNodes
from server.replies import ClientUpdate
from server.requests import OpenRequest, no_reply, num_bytes, reply_from, request_for, to_arrays
from server.sampling import choose, draw, sample_size
from server.scoring import score_everywhere
from server.state import load_states
from server.transport import Answer, Transport
from server.validation import Validation

if TYPE_CHECKING:
    from flwr.serverapp import Grid

HELLO_SECONDS, SIMULATED_HELLO_SECONDS = 60.0, 300.0  # Ray starts its workers before it answers


class Coordinator:
    """One start of a run.

    Args:
        members: node to domain, as enrolled and not revoked; None in a simulation.
    """

    def __init__(self, grid: Grid, run: RunFolder, members: Members | None = None) -> None:
        self.run = run
        self.config = load_config(run.config)
        self.base = describe_base(self.config.base.name)
        self.domains = [d.name for d in self.config.domains]
        self.transport = Transport(grid, lambda reason: run.append_event("reply_rejected", reason=reason))
        hello_seconds = HELLO_SECONDS if members else SIMULATED_HELLO_SECONDS
        self.registry = ClientRegistry(self.transport, run, self.config, members, hello_seconds)
        self.validation = Validation(self.config)
        self.failures: Counter[str] = Counter()
        self.owed: dict[str, OpenRequest] = {}

    def run_all(self) -> None:
        """Every round that is left, then the merged adapter and the matrix."""
        done, rounds = self.run.last_complete_round(), self.config.federation.num_rounds
        self.run.append_event(
            "run_started",
            run=self.run.path.name,
            base=self.base.name,
            domains=self.domains,
            num_rounds=rounds,
            resumed=self.run.events_path.is_file(),
        )
        # Before anybody is greeted: in a simulation the clients' processes still start.
        if not self.run.round(0).exists():
            save_start(self.run, self.base, first_global(self.base, self.config))
        announce_costs(self.run, self.base, self.config)
        self.registry.update(len(self.domains), self.config.federation.connect_wait_seconds)
        self._forget(done)
        for number in range(done + 1, rounds + 1):
            self._round(number)
        final = save_final(self.run, rounds)
        # Whose line has just broken is waited for: a row of the matrix has no next round.
        self.registry.update(len(self.registry.clients), self.config.federation.connect_wait_seconds)
        score_everywhere(self.run, self.config, self.transport, self.registry, final)

    def _round(self, number: int) -> None:
        """One round; its folder appears when it is complete."""
        began = time.monotonic()
        self.run.append_event("round_started", round=number)
        self._gather(number)
        current = Adapter.load(self.run.round(number - 1) / "global").factors
        asked = self._ask(number, current)
        replies = self._collect(number, current, asked)
        if len(replies) < self.config.min_valid_clients:
            raise self._failed(number, "valid replies", f"{len(replies)} of {len(self.domains)}")
        result = aggregate(self.config, current, replies, number, load_states(self.run.round(number - 1)))
        is_only = self.config.federation.num_rounds == 1
        save_round(self.run, self.base, number, replies, result, is_only=is_only)
        self._forget(number)
        num_asked = sum(a.round == number for a in asked.values())
        down = num_bytes(current) * num_asked
        self._report_round(number, replies, result, down, time.monotonic() - began)

    def _forget(self, last: int) -> None:
        """What the config does not keep of the rounds up to `last`."""
        if keep := self.config.federation.keep_rounds:
            forget_rounds(self.run, last, keep)

    def _gather(self, number: int) -> None:
        """Wait, but not for ever, until enough domains are connected to make a round."""
        needed = self.config.min_valid_clients
        self.registry.update(len(self.domains), 0.0)
        if len(self._there()) < needed <= len(self.domains) - len(self.registry.suspended):
            self.registry.update(needed, self.config.federation.min_connected_wait_seconds)
        if len(self._there()) < needed:
            raise self._failed(number, "domains that can be asked", f"{len(self._there())} of {len(self.domains)}")

    def _there(self) -> list[str]:
        return [d for d in self.registry.clients if d not in self.registry.suspended]

    def _ask(self, number: int, current: Mapping[str, Factors]) -> dict[str, OpenRequest]:
        """Send the round's requests; returns all that are open, with those of the last round that may still come."""
        owed = {i: a for i, a in self.owed.items() if self.registry.owns(a.client.node, a.domain)}
        late = {a.domain for a in owed.values()}
        order = draw(self.domains, self.config.train.seed, number)
        order = [d for d in order if d not in self.registry.suspended]
        chosen, missing = choose(order, sample_size(self.config), {*self.registry.clients, *late})
        for domain in sorted(missing):
            self._drop(number, no_reply("a node to ask", self.registry.why_missing(domain), domain), domain)
        clients = (self.registry.clients[d] for d in sorted(chosen) if d not in late)
        asked = {c.node: OpenRequest(c, number, current) for c in clients}
        sent = self._send(asked, number, current, self.config.federation.round_deadline_seconds)
        for node in asked.keys() - set(sent.values()):
            domain = asked[node].domain
            self._drop(number, no_reply("Flower to send its message", "a refusal", domain), domain, fails=True)
        return {**owed, **{i: asked[node] for i, node in sent.items()}}

    def _send(
        self, asked: Mapping[int, OpenRequest], number: int, current: Mapping[str, Factors], seconds: float
    ) -> dict[str, int]:
        """Send each node its request of the round; returns ids of messages and their nodes.

        Args:
            seconds: of the round that are left.
        """
        if not asked:
            return {}
        shared, name = to_arrays(current), self.registry.run_name
        requests = {n: request_for(self.config, a.client, name, number) for n, a in asked.items()}
        more = self.config.federation.round_deadline_seconds if self.config.federation.stragglers == "next" else 0.0
        return self.transport.send(
            "train", {n: Frame({"request": r}, shared) for n, r in requests.items()}, seconds + more
        )

    def _collect(
        self, number: int, current: Mapping[str, Factors], asked: Mapping[str, OpenRequest]
    ) -> list[ClientUpdate]:
        """Valid replies by name of domain; the others leave their reason in the events.

        A node that Flower gave up is asked again when it is back; the round waits for that only where it would
        have too few replies without.
        """
        until = time.monotonic() + self.config.federation.round_deadline_seconds
        asked, waiting = dict(asked), {i: a.client.node for i, a in asked.items()}
        replies: dict[str, ClientUpdate] = {}
        gone = LostNodes(self.registry.connected, self.config.federation.min_connected_wait_seconds)
        while True:
            for message, answer in self.transport.answers(waiting, until - time.monotonic(), gone.any_back):
                if answer.is_gone and asked[message].round == number:
                    gone.requests[asked[message]] = answer
                elif reply := self._take(number, current, asked[message], answer):
                    replies[reply.domain] = reply
            if (left := until - time.monotonic()) <= 0:
                break
            back = gone.back()
            for message, node in self._send(back, number, current, left).items():
                asked[message], waiting[message] = back[node], node
                del gone.requests[back[node]]
                self.run.append_event("client_retried", round=number, domain=back[node].domain)
            if not waiting and (len(replies) >= self.config.min_valid_clients or not gone.wait()):
                break
        for one, answer in gone.requests.items():
            self._take(number, current, one, answer)
        limit = self.config.federation.round_deadline_seconds
        for message in waiting:
            silent = asked[message].domain
            self._drop(number, no_reply(f"a reply within {limit:g} s", "none", silent), silent, fails=True)
        waits = self.config.federation.stragglers == "next"
        self.owed = {i: asked[i] for i in waiting if waits and asked[i].round == number}
        return [replies[name] for name in sorted(replies)]

    def _take(
        self, number: int, current: Mapping[str, Factors], one: OpenRequest, answer: Answer
    ) -> ClientUpdate | None:
        """The valid reply that `answer` is; None where it is not, with its reason in the events."""
        try:
            if not self.registry.owns(one.client.node, one.domain):
                raise no_reply("a member", "one that has been revoked meanwhile", one.domain)
            reply = reply_from(self.config, self.base.fingerprint, one, answer, number)
            self.validation.check(current, reply)
        except ReplyError as error:
            self._drop(number, error, one.domain, fails=True)
            return None
        self.failures.pop(one.domain, None)
        down = num_bytes(one.start)
        self.run.append_event("client_replied", round=number, rank=one.client.rank, bytes_down=down, **reply.shown())
        return reply

    def _drop(self, number: int, error: ReplyError, domain: str, *, fails: bool = False) -> None:
        """The reason goes into the events; `max_failures` in a row set the domain aside."""
        self.run.append_event("client_dropped", round=number, domain=domain, reason=str(error))
        if not (fails or domain in self.registry.silent):
            return
        self.failures[domain] += 1
        if self.failures[domain] >= self.config.federation.max_failures and domain not in self.registry.suspended:
            self.registry.suspended.add(domain)
            reason = f"no valid reply in {self.failures[domain]} rounds in a row"
            self.run.append_event("client_suspended", round=number, domain=domain, reason=reason)
            self._tell_suspended(number, domain)

    def _tell_suspended(self, number: int, domain: str) -> None:
        """Tell the domain's node, where it is there; its answer is not waited for."""
        if (client := self.registry.clients.get(domain)) is None:
            return
        told = {"run": self.registry.run_name, "round": number, "num_failures": self.failures[domain]}
        seconds = self.config.federation.round_deadline_seconds
        self.transport.send("query.suspend", {client.node: Frame({"request": told})}, seconds)

    def _report_round(
        self, number: int, replies: Sequence[ClientUpdate], result: Aggregated, bytes_down: int, seconds: float
    ) -> None:
        names = [r.domain for r in replies]
        norms = {"norms": dict(zip(names, result.norms, strict=True))} if result.norms else {}
        self.run.append_event(
            "round_finished",
            round=number,
            num_valid=len(replies),
            num_clients=len(self.domains),
            num_tokens=sum(r.num_tokens for r in replies),
            bits_per_byte_before=_mean(r.bits_per_byte_before for r in replies),
            bits_per_byte_after=_mean(r.bits_per_byte_after for r in replies),
            bytes_up=sum(r.bytes_up for r in replies),
            bytes_down=bytes_down,
            energy_cut_frac=result.energy_cut_frac,
            weights=dict(zip(names, result.weights, strict=True)),
            seconds=seconds,
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


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
