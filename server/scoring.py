"""The matrix: every domain scores the base, its own expert, experts that are shared, and the combined model.

An expert stays with its domain unless that domain's policy shares it: whoever has it can ask it for its training text. What
was not measured is written down with the reason.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from cogen.adapter import Adapter, Factors
from cogen.config import RunConfig
from cogen.errors import FederationError, ReplyError
from cogen.evaluate.matrix import BASE, COMBINED, EXPERT_PREFIX, Cell, Evaluation, NotMeasured
from cogen.node.policy import REFUSED
from cogen.protocol.messages import EvaluateReply
from cogen.runs import RunFolder
from server.best_round import best_round, row_of
from server.client_registry import Client, ClientRegistry
from server.requests import evaluate_requests, no_reply
from server.transport import Answer, Transport

NOT_SHARED = "not shared by its domain"
NOT_SCORED = "the domain scores no more experts of others"


@dataclass(frozen=True)
class Earlier:
    """The global adapter of a round that may be better than the last one, and the domains that may score it."""

    adapter: Adapter
    domains: Collection[str]


def score_everywhere(
    run: RunFolder,
    config: RunConfig,
    transport: Transport,
    registry: ClientRegistry,
    final: Adapter,
    earlier: Mapping[int, Earlier] | None = None,
) -> int:
    """Write `evaluation.json` with the scores of all domains whose policies let them leave, if there are any.

    Args:
        final: the global adapter of the last round. earlier: of rounds that may be better, by number.
    Returns: the round whose adapter is the combined model in the matrix.
    Raises:
        FederationError: scores might have come, and none did.
    """
    return _Scoring(run, config, registry, earlier or {}).score(transport, final)


class _Scoring:
    """The scores that have come, and why others have not, by model and domain."""

    def __init__(
        self, run: RunFolder, config: RunConfig, registry: ClientRegistry, earlier: Mapping[int, Earlier]
    ) -> None:
        self.run, self.config, self.registry, self.earlier = run, config, registry, earlier
        self.domains = [d.name for d in config.domains]
        self.found: dict[tuple[str, str], Cell] = {}
        self.missing: dict[tuple[str, str], str] = {}
        self.rows: list[str] = []
        self.num_failed = 0

    def score(self, transport: Transport, final: Adapter) -> int:
        experts = [d for d in self.domains if self.run.expert(d).is_dir()]
        models = {f"{EXPERT_PREFIX}{d}": Adapter.load(self.run.expert(d)).factors for d in experts}
        models[COMBINED] = final.factors
        self.rows = [BASE, *models]
        models |= {row_of(number): earlier.adapter.factors for number, earlier in self.earlier.items()}
        clients = self._willing()
        self.num_failed += not self.registry.clients
        chosen = {node: self._chosen(client, experts) for node, client in clients.items()}
        self._collect(transport, clients, models, chosen)
        best = self._best()
        cells = tuple(self.found[m, d] for m in self.rows for d in self.domains if (m, d) in self.found)
        if not cells and self.num_failed == 0:
            self.run.append_event("evaluated", num_cells=0)
            return best
        if not cells:
            raise _no_scores(self.run)
        pairs = [(m, d) for m in self.rows for d in self.domains if (m, d) in self.missing]
        missing = tuple(NotMeasured(m, d, self.missing[m, d]) for m, d in pairs)
        Evaluation(cells=cells, not_measured=missing).write(self.run.evaluation)
        self.run.append_event("evaluated", num_cells=len(cells))
        return best

    def _best(self) -> int:
        """The round with the best adapter, whose cells become those of the combined model."""
        last = self.config.federation.num_rounds
        rows = {last: COMBINED, **{number: row_of(number) for number in self.earlier}}
        found = {n: [c for (model, _), c in self.found.items() if model == row] for n, row in rows.items()}
        best, means = best_round(found)
        if means and len(rows) > 1:
            self.run.append_event("round_chosen", round=best, bits_per_byte={str(n): m for n, m in means.items()})
        if best != last:
            self.found |= {(COMBINED, cell.domain): replace(cell, model=COMBINED) for cell in found[best]}
        return best

    def _collect(
        self,
        transport: Transport,
        clients: Mapping[int, Client],
        models: Mapping[str, Mapping[str, Factors]],
        chosen: Mapping[int, Sequence[str]],
    ) -> None:
        """Ask all clients and keep the scores that come in time."""
        requests = evaluate_requests(self.config, clients, self.registry.run_name, models, chosen)
        seconds = self.config.federation.round_deadline_seconds
        waiting = transport.send(requests, seconds)
        nodes = dict(waiting)
        silent = {client.domain.name for client in clients.values()}
        for message, answer in transport.answers(waiting, seconds):
            node = nodes[message]
            domain = clients[node].domain.name
            silent.discard(domain)
            try:
                self.found |= {(c.model, domain): c for c in _cells(answer, [BASE, *chosen[node]], domain)}
            except ReplyError as error:
                self.num_failed += REFUSED not in error.reason
                self._drop(domain, error.reason)
        self.num_failed += len(silent)
        for domain in sorted(silent):
            self._drop(domain, "no scores in time")

    def _willing(self) -> dict[int, Client]:
        """The clients to ask, by node; the reason of every other domain is in the events."""
        willing = {}
        for domain in self.domains:
            client = self.registry.clients.get(domain)
            if client is None:
                self._drop(domain, self.registry.why_missing(domain))
            elif domain in self.registry.suspended:
                self._drop(domain, "it was suspended")
            elif not client.evaluates:
                self._drop(domain, "its policy keeps held-out scores at the domain")
            else:
                willing[client.node] = client
        return willing

    def _chosen(self, client: Client, experts: Sequence[str]) -> list[str]:
        """The models that a domain scores besides the base: its own expert, those that are shared, the combined one."""
        chosen, num_others = [], 0
        for expert in experts:
            cell = (EXPERT_PREFIX + expert, client.domain.name)
            if expert == client.domain.name:
                chosen.append(cell[0])
            elif expert not in self.registry.sharing:
                self.missing[cell] = NOT_SHARED
            elif num_others >= client.max_shared_experts:
                self.missing[cell] = NOT_SCORED
            else:
                num_others += 1
                chosen.append(cell[0])
        return [*chosen, COMBINED, *(row_of(n) for n, e in self.earlier.items() if client.domain.name in e.domains)]

    def _drop(self, domain: str, reason: str) -> None:
        """Write down why a domain has no scores."""
        self.run.append_event("client_dropped", round=0, domain=domain, reason=f"scores: {reason}")
        self.missing |= {(row, domain): reason for row in self.rows}


def _cells(answer: Answer, rows: Sequence[str], domain: str) -> list[Cell]:
    """The cells of one domain; it must score every row."""
    reply = answer.reply
    if not isinstance(reply, EvaluateReply):
        raise no_reply("scores", answer.error or "a reply of another kind", domain)
    if missing := [model for model in rows if model not in reply.scores]:
        raise no_reply(f"scores of {len(rows)} models", f"none of {missing[0]}", domain)
    scored = {model: reply.scores[model] for model in rows}
    return [Cell(model, domain, s.bits_per_byte, s.num_bytes, s.num_tokens) for model, s in scored.items()]


def _no_scores(run: RunFolder) -> FederationError:
    return FederationError(
        "cannot score",
        expected="scores from at least one domain",
        got="none",
        where=str(run.events_path),
        fix="The reasons are there; mend them and run again with --resume.",
    )
