"""One round's requests and the client updates that come back before its deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from cogen.adapter import Factors, Fingerprint
from cogen.config import RunConfig
from cogen.errors import ReplyError
from cogen.protocol.factors import num_bytes, wire_of_start
from cogen.runs import RunFolder
from cogen.train.schedule import Visit
from server.client_registry import ClientRegistry
from server.replies import ClientUpdate
from server.requests import OpenRequest, no_reply, train_requests, update_from
from server.transport import Answer, Transport
from server.validation import Validation

LOOK_SECONDS = 1.0
Drop = Callable[[ReplyError, str], None]


class Collection:
    """The open requests of one round.

    Flower considers a node lost after a minute without a heartbeat, and takes no reply of it to an open request any more.
    The node keeps its reply, though, and gives it at once when it is asked again. So the request is sent again when the
    node is back. The round waits for that only where it would have too few replies otherwise.

    Args:
        current: the global factors that the round starts from.
        drop: called with the reason when a client failed.
        num_needed: replies without which lost nodes are waited for; None is what the config needs of a round.
        visit: of a relay, where in the learning rates it stands.
    """

    def __init__(
        self,
        config: RunConfig,
        run: RunFolder,
        transport: Transport,
        registry: ClientRegistry,
        validation: Validation,
        fingerprint: Fingerprint,
        number: int,
        current: Mapping[str, Factors],
        drop: Drop,
        num_needed: int | None = None,
        visit: Visit | None = None,
    ) -> None:
        self.config, self.run, self.transport, self.registry = config, run, transport, registry
        self.validation, self.fingerprint, self.number, self.current = validation, fingerprint, number, current
        self.num_needed = config.min_valid_clients if num_needed is None else num_needed
        self.visit = visit
        self.open: dict[str, OpenRequest] = {}
        self.updates: dict[str, ClientUpdate] = {}
        self._drop = drop
        self._lost: dict[OpenRequest, Answer] = {}
        self._looked = self._waited = 0.0

    def send(self, requests: Mapping[int, OpenRequest], seconds: float) -> dict[str, OpenRequest]:
        """Send each node its request; returns those that Flower took, by message id.

        Args:
            seconds: of the round that are left.
        """
        clients = {node: request.client for node, request in requests.items()}
        made = train_requests(self.config, clients, self.registry.run_name, self.number, self.current, self.visit)
        federation = self.config.federation
        more = federation.round_deadline_seconds if federation.stragglers == "next" else 0.0
        sent = self.transport.send(made, seconds + more) if made else {}
        found = {message: requests[node] for message, node in sent.items()}
        self.open |= found
        return found

    def collect(self) -> list[ClientUpdate]:
        """Wait for the replies; returns valid updates by name of domain. Dropped clients leave their reason behind.

        Requests that are still open at the deadline stay in `open`.
        """
        deadline = self.config.federation.round_deadline_seconds
        until = time.monotonic() + deadline
        while True:
            self._take_answers(until)
            if (left := until - time.monotonic()) <= 0:
                break
            for request in self.send(self._back(), left).values():
                del self._lost[request]
                self.run.append_event("client_retried", round=self.number, domain=request.domain)
            if not self.open and (len(self.updates) >= self.num_needed or not self._wait_for_lost()):
                break
        for request, answer in self._lost.items():
            self._take(request, answer)
        for request in self.open.values():
            error = no_reply(f"a reply within {deadline:g} s", "none", request.domain)
            self._drop(error, request.domain)
        return [self.updates[domain] for domain in sorted(self.updates)]

    def _take_answers(self, until: float) -> None:
        waiting = {message: request.client.node for message, request in self.open.items()}
        for message, answer in self.transport.answers(waiting, until - time.monotonic(), self._any_back):
            request = self.open.pop(message)
            if answer.is_gone and request.round == self.number:
                self._lost[request] = answer
            else:
                self._take(request, answer)

    def _take(self, request: OpenRequest, answer: Answer) -> None:
        """Keep the valid update that `answer` holds; drop the client where it holds none."""
        try:
            if not self.registry.owns(request.client.node, request.domain):
                raise no_reply("a member", "one that was revoked meanwhile", request.domain)
            update = update_from(self.config, self.fingerprint, request, answer, self.number)
            self.validation.check(self.current, update)
        except ReplyError as error:
            self._drop(error, request.domain)
            return
        self.updates[update.domain] = update
        sizes = {
            "rank": request.client.rank,
            "bytes_down": num_bytes(request.start, wire_of_start(request.start, self.config.federation.wire)),
        }
        self.run.append_event("client_replied", round=self.number, **sizes, **update.event())

    def _any_back(self) -> bool:
        """Whether a lost node is back; looks once a second."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return False
        self._looked = now
        return bool(self._back())

    def _back(self) -> dict[int, OpenRequest]:
        """Requests whose lost node is back, by node."""
        if not self._lost:
            return {}
        nodes = self.registry.connected()
        return {r.client.node: r for r in self._lost if nodes.get(r.client.node) in ("", r.domain)}

    def _wait_for_lost(self) -> bool:
        """Wait a second for a lost node; False when there is none, or the time for that is over."""
        if not self._lost or self._waited >= self.config.federation.min_connected_wait_seconds:
            return False
        time.sleep(LOOK_SECONDS)
        self._waited += LOOK_SECONDS
        return True
