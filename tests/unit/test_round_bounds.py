"""What a round may ask: every bound at its value and beyond, and the steps that count."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cogen.config import load_config, parse_config
from cogen.errors import PolicyError
from cogen.node.policy import Policy
from cogen.node.round_bounds import allow_round, effective_steps, refused_by_default
from cogen.protocol.messages import TrainRequest
from cogen.protocol.settings import work_settings
from cogen.shipped_files import shipped_config
from cogen.train.schedule import Visit, plan_round
from server import relay

ORDINARY = {"tokens_per_round": 8192, "sequence_length": 512, "batch_size": 1, "rank": 16, "learning_rate": 5e-4}


def asked(number: int = 1, num_rounds: int = 1, names: tuple[str, ...] = ("q",), **train: object) -> TrainRequest:
    """A round of the quickstart's kind, with other keys of `[train]`."""
    values = {
        "domains": [{"name": "grid", "data": "/private/corpus"}],
        "train": {**ORDINARY, **train},
        "federation": {"num_rounds": num_rounds},
    }
    config = parse_config(values, "test")
    settings = work_settings(config, config.domains[0])
    arrays = {f"{name}.{side}": np.zeros((1, 1), np.float32) for name in names for side in "ab"}
    return TrainRequest(run="ab", round=number, settings=settings).with_arrays(arrays)


@pytest.mark.parametrize("name", ["quickstart", "ten", "textbooks", "textbooks-one-round"])
def test_the_shipped_configs_are_within_the_defaults(name: str) -> None:
    """But for what a relay needs every domain's word for."""
    config = load_config(shipped_config(f"configs/{name}.toml"))
    is_relay = config.federation.schedule == "relay"
    few = min(Policy().min_tokens_per_round, config.train.tokens_per_round)  # the quickstart is a simulation, and short
    policy = Policy(fresh_starts=False, share_expert=True, min_tokens_per_round=few) if is_relay else Policy()
    for domain in config.domains:
        visit = relay.visit_of(config, 1, [domain.name]) if is_relay else None
        allow_round(policy, TrainRequest(run="ab", round=1, settings=work_settings(config, domain), visit=visit))
    assert bool(refused_by_default(config)) == is_relay


# A key of the policy, a round at the bound, and one just beyond it.
BOUNDS = {
    "max_rank": (64, {"rank": 64}, {"rank": 65}),
    "max_tokens_per_round": (8192, {}, {"tokens_per_round": 8193}),
    "min_tokens_per_round": (4096, {"tokens_per_round": 4096}, {"tokens_per_round": 4095}),
    "min_tokens_per_step": (256, {"sequence_length": 256}, {"sequence_length": 255}),
    "max_tokens_per_step": (1024, {"batch_size": 2}, {"batch_size": 2, "sequence_length": 513}),
    "max_learning_rate": (0.005, {"learning_rate": 0.005}, {"learning_rate": 0.00501}),
    "min_scaling": (0.1, {"alpha": 1.6}, {"alpha": 1.59}),
    "max_scaling": (16.0, {"alpha": 256.0}, {"alpha": 256.1}),
    "max_weight_decay": (0.1, {"weight_decay": 0.1}, {"weight_decay": 0.101}),
    "min_grad_norm": (0.01, {"max_grad_norm": 0.01}, {"max_grad_norm": 0.0099}),
}


@pytest.mark.parametrize("key", BOUNDS)
def test_a_bound_holds_at_its_value_and_not_beyond(key: str) -> None:
    value, at, beyond = BOUNDS[key]
    policy = Policy(**{key: value})
    allow_round(policy, asked(**at))
    with pytest.raises(PolicyError, match="refused by the domain's policy"):
        allow_round(policy, asked(**beyond))
    allow_round(Policy(**{key: 0}), asked(**beyond))  # 0 is no limit


@pytest.mark.parametrize("key", [k for k in BOUNDS if k != "max_tokens_per_round" and k != "max_tokens_per_step"])
def test_the_defaults_have_these_bounds(key: str) -> None:
    assert getattr(Policy(), key) == BOUNDS[key][0]


def test_steps_count_by_their_weight_in_the_result() -> None:
    """By hand: level rates count in full; a linear rise to 1 over 4 steps is 0.25 + 0.5 + 0.75 + 1 = 2.5 steps."""

    def steps(**train: object) -> float:
        settings = asked(**train).settings.train
        return effective_steps(settings, plan_round(settings, 1, 1))

    level = {"schedule": "cosine", "min_lr_ratio": 1.0, "warmup_frac": 0.0, "tokens_per_round": 4 * 512}
    assert steps(**level) == pytest.approx(4.0)
    assert steps(**{**level, "warmup_frac": 1.0}) == pytest.approx(2.5)
    # With lr * wd = 0.5 a step keeps half of all earlier ones: 1 + 1/2 + 1/4 + 1/8.
    assert steps(**level, learning_rate=0.5, weight_decay=1.0) == pytest.approx(1.875)
    # With lr * wd = 1 nothing is left but the last step.
    assert steps(**level, learning_rate=0.5, weight_decay=2.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "train",
    [
        {"tokens_per_round": 4096, "batch_size": 8, "sequence_length": 512},  # one step
        {"tokens_per_round": 4096, "batch_size": 4, "sequence_length": 512},  # two
        {"tokens_per_round": 4096, "batch_size": 2, "warmup_frac": 1.0},  # four, of which the first count less
        {"learning_rate": 1.0, "weight_decay": 1.0, "min_lr_ratio": 1.0},  # sixteen, of which the last alone is left
    ],
)
def test_a_round_of_which_few_steps_count_is_refused(train: dict[str, object]) -> None:
    """Red: steps are counted as they are."""
    loose = {"max_learning_rate": 0, "max_weight_decay": 0}
    with pytest.raises(PolicyError, match="at least 4 steps"):
        allow_round(Policy(**loose), asked(**train))
    allow_round(Policy(**loose, min_steps=0), asked(**train))


@pytest.mark.parametrize(("number", "num_rounds"), [(2, 1), (31, 30), (0, 1)])
def test_a_round_is_one_of_those_that_the_settings_name(number: int, num_rounds: int) -> None:
    """Beyond the last round a schedule goes up again, or below 0."""
    with pytest.raises(PolicyError, match="a round from 1 to"):
        allow_round(Policy(), asked(number, num_rounds))


def test_a_coordinator_learns_what_domains_refuse_by_default() -> None:
    """`cogen serve` says it. Red: it is first said when every domain has joined and refuses the first round."""
    config = load_config(shipped_config("configs/ten.toml"))
    assert refused_by_default(config) == ""
    few = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": 8})})
    assert (
        refused_by_default(few)
        == "expected a round of at least 4 steps, got 2, which by their learning rates count as 1.1"
    )
    several = config.model_copy(update={"federation": config.federation.model_copy(update={"num_rounds": 3})})
    assert "got one of 3 rounds" in refused_by_default(several)


def test_more_rounds_than_one_need_a_policy_that_allows_them() -> None:
    """Refused in the first round, before work that the second would waste."""
    with pytest.raises(PolicyError, match="a run of one round, which begins from fresh factors, got one of 2 rounds"):
        allow_round(Policy(), asked(1, 2))
    allow_round(Policy(fresh_starts=False), asked(2, 2))


def test_the_logits_in_memory_are_bounded() -> None:
    """All of a step's at once would take 13 GB. Red: no bound on `train.head_chunk_tokens`."""
    allow_round(Policy(), asked(head_chunk_tokens=8192))
    with pytest.raises(PolicyError, match="head_chunk_tokens up to 8192"):
        allow_round(Policy(), asked(head_chunk_tokens=8193))


def test_a_round_without_end_is_refused_at_once() -> None:
    with pytest.raises(PolicyError, match="steps a round"):
        allow_round(Policy(), asked(tokens_per_round=10**12))


@pytest.mark.parametrize("key", ["replay", "annealing"])
@pytest.mark.parametrize("name", ["/var/lib/records", "hf://datasets/org/text"])
def test_a_coordinator_names_no_text_to_mix_in(key: str, name: str) -> None:
    """A path would train what the domain never offered; text that is known makes the rest of a round easier to read."""
    request = asked()
    train = request.settings.train.model_copy(update={key: name})
    wanted = request.model_copy(update={"settings": request.settings.model_copy(update={"train": train})})
    with pytest.raises(PolicyError, match=f"train.{key}") as caught:
        allow_round(Policy(), wanted)
    assert name not in str(caught.value)


def test_only_the_layers_of_the_policy_are_trained() -> None:
    policy = Policy(target_modules=("layers.*.mlp", "q_proj"))
    inside = ("model.layers.3.mlp.up_proj", "model.layers.0.self_attn.q_proj")
    allow_round(policy, asked(names=inside))
    with pytest.raises(PolicyError, match="got 1 other layers"):
        allow_round(policy, asked(names=(*inside, "model.layers.0.self_attn.v_proj")))


def test_a_bound_is_not_passed_by_what_is_no_number() -> None:
    request = asked()
    train = request.settings.train.model_copy(update={"weight_decay": math.nan})
    wanted = request.model_copy(update={"settings": request.settings.model_copy(update={"train": train})})
    with pytest.raises(PolicyError, match="weight_decay"):
        allow_round(Policy(), wanted)


def test_a_visit_needs_a_domain_that_shares_its_adapter_and_allows_trained_starts() -> None:
    """Red: a relay passes a domain's own adapter on although its policy says that it stays."""
    first, second = (asked().model_copy(update={"visit": Visit(first_step=s, total_steps=64)}) for s in (0, 32))
    for visit in (first, second):
        with pytest.raises(PolicyError, match="in a relay this domain's adapter is sent to the next one"):
            allow_round(Policy(fresh_starts=False), visit)
    allow_round(Policy(share_expert=True), first)  # from fresh factors
    with pytest.raises(PolicyError, match="a visit that begins from fresh factors"):
        allow_round(Policy(share_expert=True), second)
    allow_round(Policy(share_expert=True, fresh_starts=False), second)


def test_a_visit_is_as_long_as_its_own_learning_rates_say() -> None:
    """The last visit of many has small rates, all alike: its steps count. Red: those of a run of its own are taken."""
    plan = plan_round(asked().settings.train, 1, 1, Visit(first_step=10**6, total_steps=2 * 10**6))
    assert effective_steps(asked().settings.train, plan) == pytest.approx(plan.num_steps, rel=1e-3)
