"""What is unusual in a request, in words for the domain's administrator; noted before the request is answered.

Only numbers of a request are repeated, no text of the coordinator's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from cogen.config import Train
from cogen.node.home import Membership
from cogen.node.known_models import BASE_DIGEST, KnownModels
from cogen.node.policy import Policy
from cogen.node.round_bounds import MOST_STEPS, effective_steps
from cogen.node.round_spec import default_round_spec
from cogen.node.usage import Usage
from cogen.protocol.messages import TrainRequest
from cogen.train.schedule import plan_round

COMPARED = {
    "rank": "rank {got}",
    "tokens_per_round": "{got} tokens a round",
    "sequence_length": "blocks of {got} tokens",
    "batch_size": "{got} blocks a step",
}
FOREIGN = {
    "heldout": "another held-out part or other windows",
    "data": "another cleaning of the text",
    "replay": "text to mix in",
    "annealing": "text to mix in",
}


def unusual_settings(header: Mapping[str, Any]) -> list[str]:
    """Settings in a request as it came that are the domain's own to choose."""
    settings = header.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    train = settings.get("train")
    found = [name for name in settings if name in FOREIGN]
    found += [k for k in ("replay", "annealing") if isinstance(train, dict) and train.get(k) is not None]
    return list(dict.fromkeys(f"asks for {FOREIGN[name]}, which is this domain's own choice" for name in found))


def unusual_round(request: TrainRequest, member: Membership, policy: Policy) -> list[str]:
    """What a round asks for other than the invite said, and where it is short."""
    spec, settings = member.round or default_round_spec(), request.settings
    said = "of the invite" if member.round else "of the defaults"
    asked = {"rank": settings.rank, **{key: getattr(settings.train, key) for key in COMPARED if key != "rank"}}
    lines = []
    for key, text in COMPARED.items():
        wanted, got = getattr(spec, key), asked[key]
        less_by_policy = (
            key in ("rank", "tokens_per_round") and got < wanted and got == getattr(policy, f"max_{key}", 0)
        )
        if got != wanted and not less_by_policy:
            lines.append(f"asks for {text.format(got=got)} instead of {wanted} {said}")
    if settings.train.target_modules != spec.target_modules:
        lines.append(f"asks for other layers than those {said}")
    return [*lines, *_short(settings.train, request)]


def _short(train: Train, request: TrainRequest) -> list[str]:
    """Whether few steps of a round count."""
    plan = plan_round(train, request.round, request.settings.num_rounds, request.visit)
    if not 0 < plan.num_steps <= MOST_STEPS:
        return ["asks for a round without end"]
    steps, few = effective_steps(train, plan), Policy().min_steps
    if steps >= few:
        return []
    return [f"asks for a short round: {plan.num_steps} steps, which count as {steps:.3g}"]


def unusual_scoring(digests: Mapping[str, str], known: KnownModels, usage: Usage, policy: Policy) -> list[str]:
    """Models that this domain has not seen before, but for the run's combined one and those of domains that share, and a day with many figures."""
    seen = {BASE_DIGEST, *known.digests("start", "own", "combined", "other")}
    num_new = sum(digest not in seen for digest in digests.values())
    num_others = max(0, policy.max_shared_experts - len(known.digests("other")))
    expected = num_others + (0 if known.digests("combined") else 1)
    lines = []
    if num_new > expected:
        lines.append(f"asks for the score of {num_new} models that this domain has not seen")
    past, limit = len(usage.begun("figure", "round figure")), policy.max_scorings_per_day
    if limit and past > limit // 2:
        lines.append(f"asks for figures on a day that has had {past} of {limit}")
    return lines


def warning(run: str, number: int, lines: list[str]) -> dict[str, Any]:
    """The line of `work.jsonl` for what is unusual in a request."""
    about = {"action": "unusual", "run": run, "round": number, "lines": lines}
    return {"time": datetime.now(UTC).isoformat(), **about}


def warnings_in(work: Iterable[Mapping[str, Any]]) -> list[str]:
    """What was unusual, of all lines of `work.jsonl`, one line each."""
    found = [line for line in work if line.get("action") == "unusual"]
    return [f"{line['time'][:19]} round {line['round']}: {text}" for line in found for text in line["lines"]]
