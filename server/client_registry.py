"""The connected nodes, the domain of each, and what its policy allows: updated before each round."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cogen.config import Domain, RunConfig
from cogen.errors import ReplyError
from cogen.protocol.messages import HelloReply, HelloRequest
from cogen.runs import RunFolder
from server.transport import MAX_POLL_SECONDS, POLL_SECONDS, Answer, Transport

Members = Callable[[], Mapping[int, str]]


@dataclass(frozen=True)
class Client:
    """A domain's node, and what it trains in a round: what the config asks, within what the domain allows.

    Args:
        evaluates: whether scores on its held-out text may be sent.
        shares_expert: whether its own adapter may be sent to other domains.
        max_shared_experts: how many adapters of other domains it scores.
        shares_gate: whether statistics of its text for a gate may be sent.
    """

    node: int
    domain: Domain
    rank: int
    tokens_per_round: int
    evaluates: bool = True
    version: str = ""
    shares_expert: bool = False
    max_shared_experts: int = 0
    shares_gate: bool = False

    @property
    def asked(self) -> Domain:
        """The domain with the rank and tokens that its node is asked for."""
        return self.domain.model_copy(update={"rank": self.rank, "tokens_per_round": self.tokens_per_round})


class ClientRegistry:
    """The nodes that have answered a hello since this start, by domain.

    Args:
        members: node to domain, as enrolled; None in a simulation, where a node's own word counts.
        hello_seconds: how long a reply to a hello is waited for.
    Attributes:
        missing: why a domain is not among the clients, where the reason is known.
        silent: domains whose node is connected but did not answer in the last update.
        suspended: domains that are not asked any more.
        sharing: domains whose own adapter may be sent to others, by their last hello.
    """

    def __init__(
        self, transport: Transport, run: RunFolder, config: RunConfig, members: Members | None, hello_seconds: float
    ) -> None:
        self.clients: dict[str, Client] = {}
        self.missing: dict[str, str] = {}
        self.silent: set[str] = set()
        self.suspended: set[str] = set()
        self.sharing: set[str] = set()
        self.run, self.config = run, config
        self.run_name = run.read_id() if members else str(run.path)
        self._transport, self._members, self._hello_seconds = transport, members, hello_seconds
        self._open: dict[str, int] = {}
        self._strangers: set[int] = set()
        self._written: dict[str, object] = {}

    @property
    def has_members(self) -> bool:
        """Whether this is a real federation."""
        return self._members is not None

    def update(self, want: int, seconds: float) -> None:
        """Remove nodes that are gone or revoked and greet new ones, until `want` domains are there or the time is over.

        A node that has not answered after `hello_seconds` is greeted again in the next update.
        """
        until, pause = time.monotonic() + seconds, POLL_SECONDS
        longest = MAX_POLL_SECONDS if self._members else POLL_SECONDS  # a simulation's messages stay in this process
        greeted: dict[int, float] = {}
        self.missing, self.silent = {}, set()
        while True:
            nodes = self.connected()
            self._forget(nodes)
            new = nodes.keys() - greeted.keys() - {c.node for c in self.clients.values()}
            greeted |= dict.fromkeys(sorted(new), time.monotonic() + self._hello_seconds)
            self._greet(sorted(new))
            self._hear(nodes)
            open_nodes = set(self._open.values())
            waiting = [n for n, end in greeted.items() if n in nodes and n in open_nodes and time.monotonic() < end]
            if len(self.clients) >= want or (time.monotonic() >= until and not waiting):
                break
            time.sleep(pause)
            pause = min(1.5 * pause, longest)
        for node in sorted(greeted.keys() & nodes.keys() & set(self._open.values())):
            self._set_missing(node, nodes[node], f"its node has not answered within {self._hello_seconds:g} s")
        self._write_event()

    def owns(self, node: int, domain: str) -> bool:
        """Whether `node` still speaks for `domain`, connected or not."""
        return self._members is None or self._members().get(node) == domain

    def connected(self) -> dict[int, str]:
        """Connected nodes that may take part, and their domains where the members say so, else ""."""
        connected = [n for n in self._transport.grid.get_node_ids() if n not in self._strangers]
        if self._members is None:
            return dict.fromkeys(connected, "")
        members, wanted = self._members(), {d.name for d in self.config.domains} - self.suspended
        return {n: members[n] for n in connected if members.get(n) in wanted}

    def why_missing(self, domain: str) -> str:
        """Why `domain` is not among the clients."""
        if self._members is not None and domain not in self._members().values():
            return "no member of the federation, or revoked"
        return self.missing.get(domain, "its node is not connected")

    def _forget(self, nodes: Mapping[int, str]) -> None:
        for domain, client in list(self.clients.items()):
            if nodes.get(client.node) not in ("", domain):
                del self.clients[domain]

    def _greet(self, nodes: Sequence[int]) -> None:
        request = HelloRequest(run=self.run_name)
        self._open |= self._transport.send(dict.fromkeys(nodes, request), self._hello_seconds)

    def _hear(self, nodes: Mapping[int, str]) -> None:
        """Read the replies that have come; those to an earlier hello count too."""
        asked = dict(self._open)
        for number, answer in self._transport.answers(self._open, 0.0):
            if (node := asked[number]) not in nodes:
                continue
            try:
                self._enter(node, nodes[node], answer)
            except ReplyError as error:
                self._set_missing(node, nodes[node], f"hello: {error}")
        heard = {c.node for c in self.clients.values()} | self._strangers
        self._open = {i: n for i, n in self._open.items() if n in nodes and n not in heard}

    def _enter(self, node: int, domain: str, answer: Answer) -> None:
        """Enter a node. A member's domain is the enrolled one; a client's own word counts in a simulation alone."""
        if not isinstance(answer.reply, HelloReply):
            self._set_missing(node, domain, f"hello: {answer.error or 'a reply of another kind'}")
            return
        name = domain or answer.reply.domain
        known = {d.name: d for d in self.config.domains}
        if name not in known or name in self.clients:
            self._strangers.add(node)
            return
        self.clients[name] = client_of(self.config, known[name], node, answer.reply)
        (self.sharing.add if answer.reply.shares_expert else self.sharing.discard)(name)

    def _set_missing(self, node: int, domain: str, reason: str) -> None:
        if domain:
            self.missing[domain] = reason
            self.silent.add(domain)
        else:
            self.run.append_event("client_dropped", round=0, domain=f"node {node}", reason=reason)

    def _write_event(self) -> None:
        """An event whenever the registry has changed."""
        rows = [
            {
                "domain": name,
                "rank": c.rank,
                "tokens_per_round": c.tokens_per_round,
                "evaluates": c.evaluates,
                "version": c.version,
            }
            for name, c in sorted(self.clients.items())
        ]
        missing = {d.name: self.why_missing(d.name) for d in self.config.domains if d.name not in self.clients}
        event: dict[str, object] = {"clients": rows, "missing": missing}
        if event != self._written:
            self._written = event
            self.run.append_event("client_registry", **event)


def client_of(config: RunConfig, domain: Domain, node: int, hello: HelloReply) -> Client:
    """What `domain` trains: the config's rank and tokens, cut to the domain's limits, in whole blocks.

    Raises:
        ReplyError: the limit of tokens is below one block.
    """
    rank, tokens = config.rank_of(domain), config.tokens_of(domain)
    if hello.max_rank:
        rank = min(rank, hello.max_rank)
    block, limit = config.train.sequence_length, hello.max_tokens_per_round
    if limit and limit < -(-tokens // block) * block:  # tokens are rounded up to whole blocks
        tokens = limit // block * block
    if tokens == 0:
        raise ReplyError(
            "cannot take part",
            expected=f"a limit of at least one block, {block} tokens",
            got=f"{limit} tokens a round",
            where=f"domain {domain.name!r}",
            fix="It is not asked.",
        )
    sharing = (hello.shares_expert, hello.max_shared_experts, hello.shares_gate)
    return Client(node, domain, rank, tokens, hello.evaluates, hello.version, *sharing)
