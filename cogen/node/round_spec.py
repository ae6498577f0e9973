"""What a round asks of a domain's machine: `[round]` of the invite, so that it can be tried before joining."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cogen.config import Count, CpuKernels, Domain, Precision, RunConfig, Schedule, Train, Wire
from cogen.records import Table

TRAIN_KEYS = (
    "sequence_length",
    "batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "target_modules",
    "cpu_kernels",
)


class RoundSpec(Table):
    """The settings of `[train]`, `[federation]` and `[base]` that time and memory depend on.

    These are the values when the domain was invited; a run may ask for others, within the policy.
    """

    rank: Count
    tokens_per_round: Count
    schedule: Schedule = "parallel"
    num_rounds: Count = 1
    sequence_length: Annotated[int, Field(ge=8, le=131_072)]
    batch_size: Count
    gradient_accumulation_steps: Count
    gradient_checkpointing: bool
    cpu_kernels: CpuKernels
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    precision: Precision
    wire: Wire = "float32"
    round_deadline_seconds: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]

    @property
    def trained_starts(self) -> str:
        """What in a run begins from factors that others have trained, in words; empty where all rounds begin fresh."""
        if self.schedule == "relay":
            return "a relay, whose visits begin from what other domains trained"
        return f"{self.num_rounds} rounds, and later ones begin from merged factors" if self.num_rounds > 1 else ""

    @property
    def train(self) -> Train:
        """The same as `[train]` settings."""
        of_train = {key: getattr(self, key) for key in TRAIN_KEYS}
        return Train(rank=self.rank, tokens_per_round=self.tokens_per_round, **of_train)


def round_spec(config: RunConfig, domain: Domain) -> RoundSpec:
    """What `config` asks of `domain`."""
    return RoundSpec(
        rank=config.rank_of(domain),
        tokens_per_round=config.tokens_of(domain),
        schedule=config.federation.schedule,
        num_rounds=config.federation.num_rounds,
        precision=config.base.precision,
        wire=config.federation.wire,
        round_deadline_seconds=config.federation.round_deadline_seconds,
        **{key: getattr(config.train, key) for key in TRAIN_KEYS},
    )


def default_round_spec() -> RoundSpec:
    """The default values, for an invite without a `[round]` table."""
    defaults = RunConfig(domains=(Domain(name="any"),))
    return round_spec(defaults, defaults.domains[0])
