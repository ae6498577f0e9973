"""From what a round starts: the part of the global factors that this domain trains, and the digests by which models are known."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from cogen.adapter import Factors, factor_digest
from cogen.merge.factored import leading
from cogen.node.known_models import BASE_DIGEST
from cogen.train.lora import init_factors


def split_rank(
    current: Mapping[str, Factors], rank: int, seed: int
) -> tuple[dict[str, Factors], dict[str, Factors] | None]:
    """The part of the global factors that a client of rank `rank` trains, and the part that it holds frozen.

    Global factors are sorted and balanced, so the first `rank` directions are the best approximation.
    """
    import torch

    start: dict[str, Factors] = {}
    rest: dict[str, Factors] = {}
    for name, factors in current.items():
        wanted = min(rank, *factors.shape)
        lead, tail = leading(factors, min(wanted, factors.rank))
        if tail is not None and bool(tail.b.any()):  # directions with B = 0 add nothing and can be dropped
            rest[name] = tail
        if wanted > lead.rank:
            fresh = init_factors({name: factors.shape}, wanted, factors.scaling, seed)[name]
            lead = Factors(
                a=torch.cat([lead.a, fresh.a[lead.rank :]]),
                b=torch.cat([lead.b, fresh.b[:, lead.rank :]], dim=1),
                scaling=factors.scaling,
            )
        start[name] = lead
    return start, rest or None


def model_digest(train: Mapping[str, Factors], rest: Mapping[str, Factors] | None = None) -> str:
    """Of a model: that of its factors, and the same for every adapter that changes nothing."""
    parts: Sequence[Mapping[str, Factors]] = (train, rest or {})
    if not any(bool(f.b.any()) and bool(f.a.any()) for part in parts for f in part.values()):
        return BASE_DIGEST
    return factor_digest(train) if not rest else f"{factor_digest(train)} {factor_digest(rest)}"


def start_digest(start: Mapping[str, Factors], rest: Mapping[str, Factors] | None, key: str) -> str:
    """Of what a round starts from and how; a state of another start or of other settings must not be continued."""
    return hashlib.sha256(f"{factor_digest(start)} {factor_digest(rest or {})} {key}".encode()).hexdigest()[:16]
