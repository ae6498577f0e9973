"""What a round asks of a client, and what its answer is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cogen.adapter import Factors, Fingerprint
from cogen.config import RunConfig
from cogen.errors import ReplyError
from cogen.protocol.settings import settings_for
from cogen.train.schedule import plan_round
from server.client_registry import Client
from server.replies import ClientUpdate, Expected, check_reply
from server.transport import Answer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class OpenRequest:
    """One request: to whom, in which round, from which global factors on."""

    client: Client
    round: int
    start: Mapping[str, Factors]

    @property
    def domain(self) -> str:
        return self.client.domain.name


def request_for(config: RunConfig, client: Client, run_name: str, number: int) -> dict[str, Any]:
    """What a domain is told: the run, the round, and settings with its own rank and tokens."""
    settings = settings_for(config, client.asked)
    return {"run": run_name, "round": number, "scaling": config.train.scaling, "settings": settings}


def reply_from(
    config: RunConfig, fingerprint: Fingerprint, asked: OpenRequest, answer: Answer, number: int
) -> ClientUpdate:
    """The checked reply that `answer` is in round `number`; one to an older round keeps what it started from.

    Raises:
        ReplyError: it is an error, or may not touch the global model.
    """
    if answer.frame is None:
        raise no_reply("a reply", answer.error, asked.domain)
    settings = config.train.model_copy(update={"tokens_per_round": asked.client.tokens_per_round})
    tokens = plan_round(settings, 1, config.federation.num_rounds).num_blocks * settings.sequence_length
    bound = config.federation.max_update_norm
    expected = Expected(asked.domain, asked.client.rank, fingerprint, asked.start, bound, tokens)
    reply = check_reply(answer.frame, expected)
    if asked.round == number:
        return reply
    return replace(reply, start=asked.start, rounds_late=number - asked.round)


def no_reply(expected: str, got: str, domain: str) -> ReplyError:
    """The error for a domain that did not answer, or with an error."""
    return ReplyError(
        "no reply", expected=expected, got=got, where=f"domain {domain!r}", fix="It is dropped of this round."
    )


def to_arrays(factors: Mapping[str, Factors], prefix: str = "") -> dict[str, NDArray[np.float32]]:
    """Factors as they travel: `<module>.a`, `<module>.b`."""
    return {f"{prefix}{n}.{side}": getattr(f, side).contiguous().numpy() for n, f in factors.items() for side in "ab"}


def num_bytes(factors: Mapping[str, Factors]) -> int:
    """Of the factors as they travel."""
    return sum(f.a.nbytes + f.b.nbytes for f in factors.values())
