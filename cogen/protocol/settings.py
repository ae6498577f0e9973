"""The settings of a domain's work: what a round needs, and nothing of the coordinator's, of other domains or of the text."""

from __future__ import annotations

from typing import Literal

from cogen.config import Count, Domain, Precision, RunConfig, Train, Wire
from cogen.records import Table

MIX_KEYS = ("replay", "replay_frac", "annealing", "annealing_frac", "annealing_mix")
"""Keys of `[train]` about text that is mixed in."""


class WorkSettings(Table):
    """One domain's part of a run's config.

    The base model, the corpus, its cleaning, its split and the text that is mixed in are not in it: they are the domain's
    (`cogen.node.domain_settings`).
    """

    precision: Precision
    """Of the frozen base weights."""
    rank: Count
    """LoRA rank that this domain trains; `train.rank` and `train.alpha` give the scaling of all domains."""
    train: Train
    """With this domain's own tokens a round, and nothing to mix in."""
    num_rounds: Count
    optimizer_across_rounds: Literal["keep", "reset"]
    wire: Wire = "float32"
    """How the reply's factors are sent."""
    gate: bool = False
    """Whether the reply has the statistics of the domain's text for the gate of a routed model."""


def work_settings(config: RunConfig, domain: Domain) -> WorkSettings:
    """What `config` asks of `domain`."""
    nothing = {key: Train.model_fields[key].default for key in MIX_KEYS}
    train = config.train.model_copy(update={"tokens_per_round": config.tokens_of(domain), **nothing})
    return WorkSettings(
        precision=config.base.precision,
        rank=config.rank_of(domain),
        train=train,
        num_rounds=config.federation.num_rounds,
        optimizer_across_rounds=config.federation.optimizer_across_rounds,
        wire=config.federation.wire,
        gate=config.federation.result == "routed",
    )
