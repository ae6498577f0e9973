"""The settings of a domain's work: what training and scoring need, and nothing of the coordinator's or of other domains."""

from __future__ import annotations

from typing import Literal

from cogen.config import Count, Data, Domain, Heldout, Precision, RunConfig, Train
from cogen.records import Table


class WorkSettings(Table):
    """One domain's part of a run's config.

    The base model and the corpus are not in it: a domain uses its own copies of them.
    """

    precision: Precision
    """Of the frozen base weights."""
    rank: Count
    """LoRA rank that this domain trains; `train.rank` and `train.alpha` give the scaling of all domains."""
    train: Train
    """With this domain's own tokens a round."""
    heldout: Heldout
    data: Data
    num_rounds: Count
    optimizer_across_rounds: Literal["keep", "reset"]


def work_settings(config: RunConfig, domain: Domain) -> WorkSettings:
    """What `config` asks of `domain`."""
    train = config.train.model_copy(update={"tokens_per_round": config.tokens_of(domain)})
    return WorkSettings(
        precision=config.base.precision,
        rank=config.rank_of(domain),
        train=train,
        heldout=Heldout(**{key: getattr(config.evaluate, key) for key in Heldout.model_fields}),
        data=config.data,
        num_rounds=config.federation.num_rounds,
        optimizer_across_rounds=config.federation.optimizer_across_rounds,
    )
