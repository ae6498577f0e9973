"""The matrix: every domain scores the base, the experts and the combined model on its own held-out text."""

from __future__ import annotations

from collections.abc import Sequence

from cogen.adapter import Adapter
from cogen.config import RunConfig
from cogen.errors import FederationError, ReplyError
from cogen.evaluate.matrix import Cell, Evaluation
from cogen.protocol.messages import EvaluateReply
from cogen.runs import RunFolder
from server.client_registry import Client, ClientRegistry
from server.requests import evaluate_requests, no_reply
from server.transport import Answer, Transport


def score_everywhere(
    run: RunFolder, config: RunConfig, transport: Transport, registry: ClientRegistry, final: Adapter
) -> None:
    """Write `evaluation.json` with the scores of all domains that may send theirs.

    Raises:
        FederationError: domains may send scores, and none did.
    """
    domains = [d.name for d in config.domains]
    models = {f"expert:{d}": Adapter.load(run.expert(d)).factors for d in domains if run.expert(d).is_dir()}
    models["combined"] = final.factors
    clients = _willing(run, domains, registry)
    if not clients and registry.clients:
        run.append_event("evaluated", num_cells=0)
        return
    requests = evaluate_requests(config, clients, registry.run_name, models)
    seconds = config.federation.round_deadline_seconds
    waiting = transport.send(requests, seconds)
    nodes, rows, found = dict(waiting), ["base", *models], dict[tuple[str, str], Cell]()
    silent = {client.domain.name for client in clients.values()}
    for message, answer in transport.answers(waiting, seconds):
        domain = clients[nodes[message]].domain.name
        silent.discard(domain)
        try:
            found |= {(cell.model, domain): cell for cell in _cells(answer, rows, domain)}
        except ReplyError as error:
            _drop(run, domain, error.reason)
    for domain in sorted(silent):
        _drop(run, domain, "no scores in time")
    cells = tuple(found[m, d] for m in rows for d in domains if (m, d) in found)
    if not cells:
        raise FederationError(
            "cannot score",
            expected="scores from at least one domain",
            got="none",
            where=str(run.events_path),
            fix="The reasons are there; mend them and run again with --resume.",
        )
    Evaluation(cells=cells).write(run.evaluation)
    run.append_event("evaluated", num_cells=len(cells))


def _willing(run: RunFolder, domains: Sequence[str], registry: ClientRegistry) -> dict[int, Client]:
    """The clients to ask, by node; the reason of every other domain is in the events."""
    willing = {}
    for domain in domains:
        client = registry.clients.get(domain)
        if client is None:
            _drop(run, domain, registry.why_missing(domain))
        elif domain in registry.suspended:
            _drop(run, domain, "it was suspended")
        elif not client.evaluates:
            _drop(run, domain, "its policy keeps held-out scores at the domain")
        else:
            willing[client.node] = client
    return willing


def _cells(answer: Answer, rows: Sequence[str], domain: str) -> list[Cell]:
    """The cells of one domain; it must score every row."""
    reply = answer.reply
    if not isinstance(reply, EvaluateReply):
        raise no_reply("scores", answer.error or "a reply of another kind", domain)
    if missing := [model for model in rows if model not in reply.scores]:
        raise no_reply(f"scores of {len(rows)} models", f"none of {missing[0]}", domain)
    scored = {model: reply.scores[model] for model in rows}
    return [Cell(model, domain, s.bits_per_byte, s.num_bytes, s.num_tokens) for model, s in scored.items()]


def _drop(run: RunFolder, domain: str, reason: str) -> None:
    run.append_event("client_dropped", round=0, domain=domain, reason=f"scores: {reason}")
