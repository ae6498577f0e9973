"""The matrix: every domain scores base, experts and combined on its own held-out part, and sends numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cogen.adapter import Adapter
from cogen.config import RunConfig
from cogen.errors import FederationError
from cogen.evaluate.matrix import Cell, Evaluation
from cogen.protocol.wire import Frame
from cogen.runs import RunFolder
from server.client_registry import Client, ClientRegistry
from server.requests import request_for, to_arrays
from server.transport import Answer, Transport


def score_everywhere(
    run: RunFolder, config: RunConfig, transport: Transport, registry: ClientRegistry, final: Adapter
) -> None:
    """Write `evaluation.json` with the cells of all domains that may send theirs.

    Raises:
        FederationError: domains may send numbers, and none did.
    """
    domains = [d.name for d in config.domains]
    factors = {f"expert:{d}": Adapter.load(run.expert(d)).factors for d in domains if run.expert(d).is_dir()}
    factors["combined"] = final.factors
    arrays = {key: a for name, f in factors.items() for key, a in to_arrays(f, f"{name}/").items()}
    shared = Frame({"models": dict.fromkeys(factors, config.train.scaling)}, arrays)
    clients = _willing(run, domains, registry)
    if not clients and registry.clients:
        run.append_event("evaluated", num_cells=0)
        return
    rows, found = ["base", *factors], dict[tuple[str, str], Cell]()
    for domain, answer in _answers(config, transport, registry.run_name, clients, shared):
        try:
            found |= {(cell.model, domain): cell for cell in _cells(answer, rows, domain)}
        except (KeyError, ValueError, TypeError) as error:
            _drop(run, domain, f"{error}" if answer is None or answer.frame is None else _kind(error))
    cells = tuple(found[m, d] for m in rows for d in domains if (m, d) in found)
    if not cells:
        raise FederationError(
            "cannot score",
            expected="numbers from at least one domain",
            got="none",
            where=str(run.events_path),
            fix="The reasons are there; mend them and run again with --resume.",
        )
    Evaluation(cells=cells).write(run.evaluation)
    run.append_event("evaluated", num_cells=len(cells))


def _willing(run: RunFolder, domains: Sequence[str], registry: ClientRegistry) -> list[Client]:
    """The clients to ask; the reason of every other domain is in the events."""
    willing = []
    for domain in domains:
        client = registry.clients.get(domain)
        if client is None:
            _drop(run, domain, registry.why_missing(domain))
        elif domain in registry.suspended:
            _drop(run, domain, "it was suspended")
        elif not client.evaluates:
            _drop(run, domain, "its policy keeps held-out numbers at the domain")
        else:
            willing.append(client)
    return willing


def _answers(
    config: RunConfig,
    transport: Transport,
    run_name: str,
    clients: Sequence[Client],
    shared: Frame,
) -> list[tuple[str, Answer | None]]:
    number, seconds = config.federation.num_rounds, config.federation.round_deadline_seconds
    names = {c.node: c.domain.name for c in clients}
    headers = {c.node: {**shared.header, "request": request_for(config, c, run_name, number)} for c in clients}
    frames = {node: Frame(header, shared.arrays) for node, header in headers.items()}
    waiting = transport.send("evaluate", frames, seconds)
    asked = dict(waiting)
    found: dict[str, Answer | None] = dict.fromkeys(names.values())
    found |= {names[asked[i]]: answer for i, answer in transport.answers(waiting, seconds)}
    return list(found.items())


def _cells(answer: Answer | None, rows: Sequence[str], domain: str) -> list[Cell]:
    if answer is None:
        raise ValueError("no scores in time")
    if answer.frame is None:
        raise ValueError(answer.error)
    return [_cell(model, domain, answer.frame.header["cells"][model]) for model in rows]


def _cell(model: str, domain: str, record: Mapping[str, Any]) -> Cell:
    bits = float(record["bits_per_byte"])
    if not 0.0 <= bits < float("inf"):
        raise ValueError(f"bits_per_byte of {model} is {bits}")
    counts = int(record["num_bytes"]), int(record["num_tokens"])
    if min(counts) <= 0:
        raise ValueError(f"{model} was scored on {counts[0]} bytes, {counts[1]} tokens")
    return Cell(model, domain, bits, *counts)


def _kind(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _drop(run: RunFolder, domain: str, reason: str) -> None:
    run.append_event("client_dropped", round=0, domain=domain, reason=f"scores: {reason}")
