"""What a domain allows: `policy.toml`, read again for every request.

The coordinator is told the limits of rank and tokens and asks for no more. Every other request beyond the policy is refused
with a line that is safe to share: it names the rule and nothing about the machine.
"""

from __future__ import annotations

from datetime import datetime, time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from cogen.config import Train
from cogen.errors import PolicyError
from cogen.node.home import write_private
from cogen.records import Table, read_toml, validated

Limit = Annotated[int, Field(ge=0)]
REFUSED = "refused by the domain's policy"
Bound = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]

TEMPLATE = """\
# What this domain allows. The file is read again for every request; 0 means no limit. "A day" is the last 24 hours.
# docs/threat-model.md gives the reasons for the defaults.

# Kinds of work: train a round, score models on held-out text.
train = true
evaluate = true

# Whether held-out bits per byte may be sent: those before and after a round, and those of scored models.
evaluation_leaves = true

# Whether the adapter that this domain alone has trained may be sent to other domains, which score it, or in a relay train
# it on. And how many such adapters of others are scored here, for each run.
share_expert = false
max_shared_experts = 0

# Whether statistics of this domain's text may be sent for the gate of a routed model: mean and variance of the base's last
# hidden states over some 8,000 training tokens, two numbers for each hidden dimension. They tell roughly what the text is
# about. A routed model has this domain's expert only with share_expert = true as well.
share_gate = false

# Most figures (bits per byte of one model) sent in a day; those of rounds take at most half. A figure that was sent before
# is sent again and not counted. Each is rounded to four digits and tells at most 14 bits.
max_scorings_per_day = 24

# Least held-out tokens and documents of a figure; with less, none is sent.
min_scored_tokens = 1024
min_scored_documents = 3

# Largest LoRA rank, and most tokens of a round. The coordinator is told both and asks for no more.
max_rank = 64
max_tokens_per_round = 0

# Least text of a round: tokens, different documents, tokens of an optimizer step, and steps. A step counts by its share in
# the result: one with half of the learning rate counts half. And most tokens of a step, for this machine's memory.
min_tokens_per_round = 4096
min_documents = 3
min_tokens_per_step = 256
min_steps = 4
max_tokens_per_step = 65536

# Bounds of [train] keys: learning_rate, alpha / rank, weight_decay, max_grad_norm.
max_learning_rate = 0.005
min_scaling = 0.1
max_scaling = 16.0
max_weight_decay = 0.1
min_grad_norm = 0.01

# Patterns of the linear layers that may get an adapter, such as ["layers.*.mlp"]; [] allows all except the head.
target_modules = []

# Largest change that an adapter sent to this domain may make to a layer, as a share of the layer's own norm.
max_adapter_norm = 0.5

# Whether a round may begin only from fresh factors, as every run of one round does. With false, the coordinator makes the
# start of later rounds, and a crafted one can make single tokens of your text readable in the reply.
fresh_starts = true

# Largest AUC with which the adapter of a round tells what it was trained on from other text of this corpus: 0.5 is guessing,
# 1 tells all. Above it the adapter is not sent. With 0, none is audited.
max_membership_auc = 0.0

# Whether documents are trained in an order that only this domain knows. With false, train.seed gives it, as in a simulation.
private_order = true

# Most rounds begun in a day, and most bytes sent in it.
max_rounds_per_day = 100
max_bytes_up_per_day = 0

# Most seconds of work on a request.
max_seconds = 43200

# When work may begin, in local time, such as "22:00-06:00"; "" means at any time.
hours = ""

# Names of the base models that may be trained, such as ["smollm2-135m"]; [] allows the one of the invite.
bases = []
"""


class Policy(Table):
    """`policy.toml`."""

    train: bool = True
    """Whether rounds are trained."""
    evaluate: bool = True
    """Whether models are scored on the held-out part."""
    evaluation_leaves: bool = True
    """Whether held-out bits per byte may be sent."""
    share_expert: bool = False
    """Whether other domains may get this domain's own adapter, to score it, or in a relay to train it on."""
    max_shared_experts: Limit = 0
    """Most adapters of other domains that are scored here, for each run; 0 is none."""
    share_gate: bool = False
    """Whether statistics of the training text may be sent for the gate of a routed model."""
    max_scorings_per_day: Limit = 24
    """Most figures that are sent in a day, those of rounds up to half of it."""
    min_scored_tokens: Limit = 1024
    """Least held-out tokens of a figure."""
    min_scored_documents: Limit = 3
    """Least held-out documents of a figure."""
    max_rank: Limit = 64
    """Largest LoRA rank."""
    max_tokens_per_round: Limit = 0
    """Most tokens of a round, in whole blocks."""
    min_tokens_per_round: Limit = 4096
    """Least tokens of a round, and of the training part that they come from."""
    min_documents: Limit = 3
    """Least documents that the tokens of a round come from."""
    min_tokens_per_step: Limit = 256
    """Least tokens of an optimizer step."""
    min_steps: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 4.0
    """Least optimizer steps of a round, each counted by its share in the result."""
    max_tokens_per_step: Limit = 65_536
    """Most tokens of an optimizer step."""
    max_learning_rate: Bound = 0.005
    """Largest `train.learning_rate`."""
    min_scaling: Bound = 0.1
    """Smallest factor before B @ A."""
    max_scaling: Bound = 16.0
    """Largest factor before B @ A."""
    max_weight_decay: Bound = 0.1
    """Largest `train.weight_decay`."""
    min_grad_norm: Bound = 0.01
    """Smallest `train.max_grad_norm`."""
    target_modules: tuple[str, ...] = ()
    """Patterns of the linear layers that may get an adapter; an empty list allows all except the head."""
    max_adapter_norm: Bound = 0.5
    """Largest Frobenius norm of scaling * B @ A of an adapter that is sent here, as a share of the layer's."""
    fresh_starts: bool = True
    """Whether a round may begin only from fresh factors, which rounds after the first do not."""
    max_membership_auc: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Largest AUC of the domain's attack on its own adapter, from 0.5; 0 audits none."""
    private_order: bool = True
    """Whether documents are trained in an order that only this domain knows."""
    max_rounds_per_day: Limit = 100
    """Most rounds that are begun in a day; a repeated request counts once."""
    max_bytes_up_per_day: Limit = 0
    """Most bytes of arrays that are sent in a day."""
    max_seconds: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 43_200.0
    """Most seconds of work on a request."""
    hours: str = ""
    """When work may begin, in local time: "22:00-06:00"; the first minute is included, the last is not."""
    bases: tuple[str, ...] = ()
    """Names of the base models that may be trained; an empty list allows the one of the invite."""

    @field_validator("max_membership_auc")
    @classmethod
    def _is_auc(cls, value: float) -> float:
        if 0.0 < value < 0.5:
            raise ValueError(f"max_membership_auc = {value:g}: 0.5 is guessing, so a limit is from 0.5 to 1; 0 is none")
        return value

    @field_validator("hours")
    @classmethod
    def _is_span(cls, value: str) -> str:
        if value:
            _span(value)
        return value


def read_policy(path: Path) -> Policy:
    """The policy in the file; a missing file is written with the defaults.

    Raises:
        ConfigError: an unknown key or a value out of bounds. Nothing is allowed then.
    """
    if not path.is_file():
        write_private(path, TEMPLATE.encode())
    return validated(Policy, read_toml(path), str(path))


def allow(policy: Policy, kind: Literal["train", "evaluate"], base: str, now: datetime | None = None) -> None:
    """Raise PolicyError unless this kind of work with this base model may begin now."""
    if not getattr(policy, kind):
        raise refused(f"no {kind}", f"a request to {kind}")
    if kind == "evaluate" and not policy.evaluation_leaves:
        raise refused("no numbers of evaluation to leave", "a request for them")
    if policy.bases and base not in policy.bases:
        raise refused(f"one of the bases {', '.join(policy.bases)}", base)
    clock = (now or datetime.now()).time()
    if policy.hours and not _within(clock, policy.hours):
        raise refused(f"work between {policy.hours}", "a request outside these hours")


def within(policy: Policy, settings: Train) -> Train:
    """`settings` with the rank and tokens that the coordinator asks for once it knows the policy."""
    rank = min(settings.rank, policy.max_rank or settings.rank)
    tokens = min(settings.tokens_per_round, policy.max_tokens_per_round or settings.tokens_per_round)
    return settings.model_copy(update={"rank": rank, "tokens_per_round": tokens})


def refused(expected: str, got: str) -> PolicyError:
    """The error for what the policy forbids."""
    fix = "The domain's administrator decides; ask for less, or leave this domain out."
    return PolicyError(REFUSED, expected=expected, got=got, fix=fix)


def _within(now: time, hours: str) -> bool:
    first, last = _span(hours)
    return first <= now < last if first <= last else now >= first or now < last


def _span(hours: str) -> tuple[time, time]:
    """Start and end of a span such as "22:00-06:00".

    Raises:
        ValueError: not of that form.
    """
    try:
        first, last = (datetime.strptime(part.strip(), "%H:%M").time() for part in hours.split("-"))
    except ValueError:
        raise ValueError(f"hours = {hours!r}, which is not like 22:00-06:00") from None
    return first, last
