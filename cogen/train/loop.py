"""The one training loop, on accelerate: every command and every client trains through `train_round`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from cogen.adapter import Factors
from cogen.config import Train
from cogen.data.pack import Batch, Stream, step_batches
from cogen.errors import TrainingError
from cogen.train.attention import use_segment_attention
from cogen.train.distributed import ALONE, ProcessGroup, join_process_group
from cogen.train.fast.training import FastTraining, fast_training
from cogen.train.lora import attached, read_back, tables
from cogen.train.memory import gradient_checkpointing
from cogen.train.schedule import RoundPlan, learning_rate
from cogen.train.state import Best, TrainState, better, is_due, is_over

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from cogen.base import Base

EMBEDDING_RATE_FACTOR = 0.1
ADAM_KEYS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Step:
    """One optimiser step, as it is shown and logged; counts are of this round."""

    round: int
    step: int
    num_steps: int
    num_tokens: int
    loss_nats: float
    learning_rate: float
    tokens_per_second: float


@dataclass(frozen=True)
class RoundResult:
    """What a round of training gave: factors, the state to go on from, and its figures."""

    factors: dict[str, Factors]
    state: TrainState
    num_tokens: int
    num_steps: int
    loss_nats: float
    seconds: float
    best: Best | None = None


def train_round(
    base: Base,
    start: Mapping[str, Factors],
    stream: Stream,
    plan: RoundPlan,
    settings: Train,
    *,
    rest: Mapping[str, Factors] | None = None,
    state: TrainState | None = None,
    on_step: Callable[[Step], None] | None = None,
    on_checkpoint: Callable[[TrainState], None] | None = None,
    validate: Callable[[], float] | None = None,
) -> RoundResult:
    """Continue pretraining from `start` through the blocks and steps of `plan`.

    Args:
        start: the factors to train, by module.
        rest: frozen directions that belong to the model all the same.
        state: of an earlier round (moments live on), or of this round cut off in the middle.
        on_step: called after each optimiser step.
        on_checkpoint: called with a state to save, every `settings.checkpoint_seconds`.
        validate: scores the model as it is, lower being better; asked every `settings.early_stop_every` steps
            and at the end. After `settings.early_stop_patience` scores without a better one training ends.
    Of several processes each works through its share of a step; all return the same, only the first one calls
    `on_step`, `on_checkpoint` and `validate`.

    Returns: float32 factors on the CPU; the same bits for the same input on the same CPU.
    Raises:
        TrainingError: the loss is not finite.
        ConfigError: more processes than blocks of a step.
    """
    group = join_process_group(plan.batch_size)
    if not group.is_main:
        on_step = on_checkpoint = None
    accelerator = make_accelerator()
    use_segment_attention(base.model)
    state = state or TrainState({})
    begin = state.factors if state.factors is not None else start
    begin = dict(sorted(begin.items()))  # the order in which clipping sums the norms decides the last bit
    scaling = {name: f.scaling for name, f in start.items()}
    first, sum_loss, best = state.num_steps_done, state.sum_loss_nats, state.best
    began = saved = time.monotonic()
    done = first
    slow = tables(base.model, begin)
    with (
        attached(base.model, begin, rest) as live,
        gradient_checkpointing(base.model, settings.gradient_checkpointing),
        fast_training(base.model, settings.cpu_kernels) as fast,
    ):
        optimizer = accelerator.prepare(_optimizer(live, slow, settings, state))
        while done < plan.num_steps and not is_over(best, settings):
            rate = learning_rate(settings, plan.first_step + done, plan.total_steps)
            block, num_blocks = group.share(*plan.blocks_of(done))
            batches = step_batches(
                stream, block, num_blocks, settings.gradient_accumulation_steps if fast is None else num_blocks
            )
            loss = _step(accelerator, base.model, optimizer, batches, rate, settings, fast, group)
            sum_loss += _finite(loss, plan, done)
            done += 1
            if validate is not None and is_due(done, plan.num_steps, settings):
                with fast.aside() if fast is not None else nullcontext():
                    score = group.from_main(validate)
                best = better(best, score, done, partial(read_back, live, scaling))
            if on_step is not None:
                seconds = time.monotonic() - began
                on_step(_report(plan, first, done - 1, stream.sequence_length, loss, rate, seconds))
            if on_checkpoint is not None and time.monotonic() - saved >= settings.checkpoint_seconds:
                on_checkpoint(TrainState(_moments(live, optimizer), done, sum_loss, read_back(live, scaling), best))
                saved = time.monotonic()
        factors = read_back(live, scaling) if best is None else dict(best.factors)
        after = TrainState(_moments(live, optimizer))
    tokens = plan.blocks_before(done if best is None else best.step) * stream.sequence_length
    return RoundResult(factors, after, tokens, done, sum_loss / done, time.monotonic() - began, best)


def make_accelerator() -> Any:
    """An Accelerator that leaves device and precision to the base: its own are one for the whole process."""
    from accelerate import Accelerator

    return Accelerator(mixed_precision="no", device_placement=False)


def autocast(model: PreTrainedModel) -> Any:
    """bfloat16 products with float32 factors where the base is bfloat16; nothing for others."""
    import torch

    return torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16)


def hidden_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Last hidden states `(N, d)` of segments that do not see each other, positions from 0 in each."""
    import torch

    device = model.device
    positions = torch.cat([torch.arange(n, device=device) for n in batch.lengths])
    out = model.get_decoder()(
        input_ids=torch.from_numpy(batch.tokens).to(device)[None],
        position_ids=positions[None],
        use_cache=False,
        segment_lengths=batch.lengths,
    )
    hidden: Tensor = out.last_hidden_state[0]
    return hidden


def _step(
    accelerator: Any,
    model: PreTrainedModel,
    optimizer: Any,
    batches: Sequence[Batch],
    rate: float,
    settings: Train,
    fast: FastTraining | None = None,
    group: ProcessGroup = ALONE,
) -> float:
    """One update from the mean over all predicted tokens of `batches`, however they are cut."""
    import torch

    from cogen.train.loss import head_loss, head_weight, nll_and_gradient

    for settings_of in optimizer.param_groups:
        settings_of["lr"] = rate * settings_of.get("rate_factor", 1.0)
    num_predicted = max(group.sum(sum(batch.num_predicted for batch in batches)), 1)
    parameters = [p for g in optimizer.param_groups for p in g["params"]]
    mean_loss = head_loss(model.device, settings, nll_and_gradient if fast is None else fast.head)

    def part_loss(batch: Batch) -> Tensor:
        """The batch's part of the mean over all."""
        with autocast(model) if fast is None else nullcontext():
            hidden = hidden_states(model, batch)
        weight, targets = head_weight(model), torch.from_numpy(batch.targets).to(hidden.device)
        return mean_loss(hidden.to(weight.dtype), weight, targets) * (batch.num_predicted / num_predicted)

    if fast is not None:
        sum_loss = fast.gradients(part_loss, batches, parameters)
    else:
        sum_loss = 0.0
        for batch in batches:
            loss = part_loss(batch)
            accelerator.backward(loss)
            sum_loss += float(loss.detach())
    group.sum_gradients(parameters)
    accelerator.clip_grad_norm_(parameters, settings.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return group.sum(sum_loss)


def _finite(loss: float, plan: RoundPlan, step: int) -> float:
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise TrainingError(
            "training diverged",
            expected="a finite loss",
            got=str(loss),
            where=f"round {plan.round}, step {step + 1}",
            fix="Lower train.learning_rate.",
        )
    return loss


def _optimizer(
    live: Mapping[str, tuple[Parameter, Parameter]], slow: frozenset[str], settings: Train, state: TrainState
) -> Optimizer:
    """AdamW going on from `state`; the modules in `slow` learn at a fraction of the rate."""
    import torch

    sorts = ((EMBEDDING_RATE_FACTOR, slow), (1.0, live.keys() - slow))
    groups = [
        {"params": [p for name, pair in live.items() if name in names for p in pair], "rate_factor": factor}
        for factor, names in sorts
        if names
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    for name, parameter in _named(live):
        found = {k: state.moments.get(f"{name}.{k}") for k in ADAM_KEYS}
        average = found["exp_avg"]
        if average is not None and average.shape == parameter.shape:
            optimizer.state[parameter] = {k: v.clone().to(parameter.device) for k, v in found.items() if v is not None}
    return optimizer


def _moments(live: Mapping[str, tuple[Parameter, Parameter]], optimizer: Any) -> dict[str, Tensor]:
    """Copies of Adam's state by parameter name, on the CPU."""
    state = optimizer.state
    return {f"{n}.{k}": state[p][k].detach().to("cpu", copy=True) for n, p in _named(live) for k in ADAM_KEYS}


def _named(live: Mapping[str, tuple[Parameter, Parameter]]) -> list[tuple[str, Parameter]]:
    return [(f"{name}.{side}", p) for name, pair in live.items() for side, p in zip("AB", pair, strict=True)]


def _report(
    plan: RoundPlan, first: int, step: int, sequence_length: int, loss: float, rate: float, seconds: float
) -> Step:
    blocks = min((step + 1) * plan.batch_size, plan.num_blocks)
    here = blocks - first * plan.batch_size
    return Step(
        round=plan.round,
        step=step + 1,
        num_steps=plan.num_steps,
        num_tokens=blocks * sequence_length,
        loss_nats=loss,
        learning_rate=rate,
        tokens_per_second=here * sequence_length / max(seconds, 1e-9),
    )
