"""What a domain allows: `policy.toml`, read again for every request.

The coordinator is told the limits of rank and tokens and asks for no more. Every other request beyond the policy is refused
with a line that is safe to share: it names the rule and nothing about the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from cogen.config import Train
from cogen.errors import PolicyError
from cogen.node.home import write_private
from cogen.protocol.settings import WorkSettings
from cogen.records import Table, read_toml, validated

Limit = Annotated[int, Field(ge=0)]

TEMPLATE = """\
# What this domain allows. The file is read again for every request; 0 means no limit.

# Kinds of work: train a round, score models on held-out text.
train = true
evaluate = true

# Whether held-out bits per byte may be sent: those before and after a round, and those of scored models.
evaluation_leaves = true

# Largest LoRA rank, and most tokens of a round. The coordinator is told both and asks for no more.
max_rank = 0
max_tokens_per_round = 0

# Most rounds of one run, and most bytes sent in it.
max_rounds_per_run = 0
max_bytes_up_per_run = 0

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
    max_rank: Limit = 0
    """Largest LoRA rank."""
    max_tokens_per_round: Limit = 0
    """Most tokens of a round, in whole blocks."""
    max_rounds_per_run: Limit = 0
    """Most rounds of a run that are answered; a repeated round counts once."""
    max_bytes_up_per_run: Limit = 0
    """Most bytes of arrays that are sent in a run."""
    hours: str = ""
    """When work may begin, in local time: "22:00-06:00"; the first minute is included, the last is not."""
    bases: tuple[str, ...] = ()
    """Names of the base models that may be trained; an empty list allows the one of the invite."""

    @field_validator("hours")
    @classmethod
    def _is_span(cls, value: str) -> str:
        if value:
            _span(value)
        return value


@dataclass(frozen=True)
class Sent:
    """What this domain has sent in one run: the rounds that it answered, and the bytes of arrays."""

    rounds: frozenset[int]
    num_bytes: int


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


def allow_round(policy: Policy, settings: WorkSettings, round_number: int, num_bytes: int, sent: Sent) -> None:
    """Raise PolicyError if a round asks for more than the policy allows.

    Args:
        num_bytes: of the arrays in the reply.
        sent: what the run has had so far; a repeated round counts its bytes again, but not as another round.
    """
    train, rank = settings.train, settings.rank
    if policy.max_rank and rank > policy.max_rank:
        raise refused(f"a rank up to {policy.max_rank}", str(rank))
    if policy.max_tokens_per_round and train.tokens_per_round > policy.max_tokens_per_round:
        raise refused(f"up to {policy.max_tokens_per_round} tokens a round", str(train.tokens_per_round))
    rounds = len(sent.rounds | {round_number})
    if policy.max_rounds_per_run and rounds > policy.max_rounds_per_run:
        raise refused(f"up to {policy.max_rounds_per_run} rounds of a run", f"one more than the {rounds - 1} answered")
    total = sent.num_bytes + num_bytes
    if policy.max_bytes_up_per_run and total > policy.max_bytes_up_per_run:
        raise refused(f"up to {policy.max_bytes_up_per_run} bytes of a run", f"{total} with this reply")
    for key in ("replay", "annealing"):
        if (path := getattr(train, key)) is not None and not path.startswith("hf://"):
            raise refused(f"train.{key} to be a public hf:// corpus", "a path of this machine's own")


def within(policy: Policy, settings: Train) -> Train:
    """`settings` with the rank and tokens that the coordinator asks for once it knows the policy."""
    rank = min(settings.rank, policy.max_rank or settings.rank)
    tokens = min(settings.tokens_per_round, policy.max_tokens_per_round or settings.tokens_per_round)
    return settings.model_copy(update={"rank": rank, "tokens_per_round": tokens})


def refused(expected: str, got: str) -> PolicyError:
    """The error for what the policy forbids."""
    fix = "The domain's administrator decides; ask for less, or leave this domain out."
    return PolicyError("refused by the domain's policy", expected=expected, got=got, fix=fix)


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
