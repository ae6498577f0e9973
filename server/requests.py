"""Which clients a round asks, what it asks of them, and the client update that comes back.

The draw of clients depends on the seed and the round number alone, so a resumed run draws the same.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cogen.adapter import Factors, Fingerprint
from cogen.config import RunConfig
from cogen.errors import ReplyError
from cogen.evaluate.matrix import EXPERT_PREFIX
from cogen.protocol.factors import to_arrays, wire_of_start
from cogen.protocol.messages import EvaluateRequest, TrainReply, TrainRequest
from cogen.protocol.settings import WorkSettings, work_settings
from cogen.train.schedule import Visit, plan_round
from server.client_registry import Client
from server.replies import ClientUpdate, Expected, check_reply
from server.transport import Answer


@dataclass(frozen=True, eq=False)
class OpenRequest:
    """One train request: to which client, in which round, from which global factors."""

    client: Client
    round: int
    start: Mapping[str, Factors]

    @property
    def domain(self) -> str:
        return self.client.domain.name


def train_requests(
    config: RunConfig,
    clients: Mapping[int, Client],
    run_name: str,
    number: int,
    current: Mapping[str, Factors],
    visit: Visit | None = None,
) -> dict[int, TrainRequest]:
    """The round's request for each node; all of them share the arrays of the global factors."""
    arrays = to_arrays(current, wire=wire_of_start(current, config.federation.wire))

    def request(client: Client) -> TrainRequest:
        return TrainRequest(run=run_name, round=number, settings=settings_for(config, client), visit=visit)

    return {node: request(client).with_arrays(arrays) for node, client in clients.items()}


def settings_for(config: RunConfig, client: Client) -> WorkSettings:
    """What a client is asked; statistics for a gate only where its domain sends them."""
    settings = work_settings(config, client.asked)
    return settings.model_copy(update={"gate": settings.gate and client.shares_gate})


def evaluate_requests(
    config: RunConfig,
    clients: Mapping[int, Client],
    run_name: str,
    models: Mapping[str, Mapping[str, Factors]],
    rows: Mapping[int, Sequence[str]],
) -> dict[int, EvaluateRequest]:
    """The request to score for each node.

    A domain that does not share its own adapter gets no copy of it: it is only named. Nodes that get the same models share
    the arrays.

    Args:
        models: their factors by name.
        rows: node to the names of the models that it scores.
    """
    made: dict[tuple[str, ...], dict[str, Any]] = {}
    requests = {}
    for node, client in clients.items():
        own = "" if client.shares_expert else EXPERT_PREFIX + client.domain.name
        sent = tuple(name for name in rows[node] if name != own)
        if sent not in made:
            made[sent] = {
                k: a for name in sent for k, a in to_arrays(models[name], f"{name}/", config.federation.wire).items()
            }
        settings, number = settings_for(config, client), config.federation.num_rounds
        request = EvaluateRequest(run=run_name, round=number, settings=settings, models=tuple(rows[node]))
        requests[node] = request.with_arrays(made[sent])
    return requests


def update_from(
    config: RunConfig, fingerprint: Fingerprint, request: OpenRequest, answer: Answer, number: int
) -> ClientUpdate:
    """The checked client update that `answer` holds; a straggler's keeps the factors that it started from.

    Args:
        number: the round that it enters.
    Raises:
        ReplyError: it is an error, or may not touch the global model.
    """
    if not isinstance(answer.reply, TrainReply):
        raise no_reply("a reply", answer.error or "a reply of another kind", request.domain)
    settings = config.train.model_copy(update={"tokens_per_round": request.client.tokens_per_round})
    tokens = plan_round(settings, 1, config.federation.num_rounds).num_blocks * settings.sequence_length
    bound = config.federation.max_update_norm
    wire = config.federation.wire
    gate = settings_for(config, request.client).gate
    expected = Expected(request.domain, request.client.rank, fingerprint, request.start, bound, tokens, wire, gate)
    update = check_reply(answer.reply, expected)
    if request.round == number:
        return update
    return replace(update, start=request.start, rounds_late=number - request.round)


def no_reply(expected: str, got: str, domain: str) -> ReplyError:
    """The error for a client that did not reply, or with an error."""
    where = f"domain {domain!r}"
    return ReplyError("no reply", expected=expected, got=got, where=where, fix="The client is dropped from this round.")


def draw(domains: Sequence[str], seed: int, number: int) -> list[str]:
    """All domains in a random order for round `number`; the order of `domains` does not matter."""
    return random.Random(seed + number).sample(sorted(domains), len(domains))


def sample_size(config: RunConfig) -> int:
    """How many domains a round asks: `fraction_train` of them, rounded up, and at least `min_valid_clients`."""
    share = math.ceil(config.federation.fraction_train * len(config.domains) - 1e-9)
    return max(share, config.min_valid_clients)


def choose(order: Sequence[str], size: int, available: Collection[str]) -> tuple[list[str], list[str]]:
    """The domains to ask, and the domains of the sample that cannot be asked.

    The first `size` of `order` are the sample. A domain that is not available is replaced by the next one that is.
    """
    missing = [domain for domain in order[:size] if domain not in available]
    return [domain for domain in order if domain in available][:size], missing
