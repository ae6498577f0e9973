"""The training loop: every command and every client trains with `train_round`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cogen.adapter import Factors
from cogen.config import Train
from cogen.data.pack import Stream, step_batches
from cogen.errors import TrainingError
from cogen.train.distributed import join_process_group
from cogen.train.fast.training import fast_training
from cogen.train.isolation import use_segment_attention
from cogen.train.lora import attached, read_back, tables
from cogen.train.memory import gradient_checkpointing
from cogen.train.schedule import RoundPlan, learning_rate
from cogen.train.state import Best, TrainState, better, is_due, is_over
from cogen.train.step import LiveFactors, Stepper, make_accelerator, make_optimizer, moments

if TYPE_CHECKING:
    from cogen.base import Base


@dataclass(frozen=True)
class Step:
    """One optimizer step, for display and log; `step` counts from 1, and all counts are of this round."""

    round: int
    step: int
    num_steps: int
    num_tokens: int
    loss_nats: float
    learning_rate: float
    tokens_per_second: float


@dataclass(frozen=True)
class RoundResult:
    """The result of a round of training: factors, the state for the next round, and figures."""

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
    frozen: Mapping[str, Factors] | None = None,
    state: TrainState | None = None,
    on_step: Callable[[Step], None] | None = None,
    on_checkpoint: Callable[[TrainState], None] | None = None,
    validate: Callable[[], float] | None = None,
    check: Callable[[], None] | None = None,
) -> RoundResult:
    """Continue pretraining from `start` through the blocks and steps of `plan`.

    Among several processes each trains on its share of every step. All return the same result; only the first one
    calls `on_step`, `on_checkpoint` and `validate`.

    Args:
        start: the factors to train, by module.
        frozen: further directions of the adapter, which are not trained.
        state: of an earlier round, whose Adam moments go on, or of this round, if it was interrupted.
        on_step: called after each optimizer step.
        on_checkpoint: called with a state to save, every `settings.checkpoint_seconds`.
        validate: scores the current model, lower is better; called every `settings.early_stop_every` steps and at
            the end. Training ends after `settings.early_stop_patience` scores in a row without a better one.
        check: called after each step; what it raises ends the round, after `on_checkpoint` has got its state.
    Returns: float32 factors on the CPU; the same input on the same CPU gives the same bits.
    Raises:
        TrainingError: the loss is not finite.
        ConfigError: more processes than blocks of a step.
    """
    began = time.monotonic()
    group = join_process_group(plan.batch_size)
    if not group.is_main:
        on_step = on_checkpoint = None
    use_segment_attention(base.model)
    state = state or TrainState({})
    begin = state.factors if state.factors is not None else start
    begin = dict(sorted(begin.items()))  # the order in which clipping sums the norms decides the last bit
    slow = tables(base.model, begin)  # before factors are attached, which hides what kind of module each one is
    with (
        attached(base.model, begin, frozen) as live,
        gradient_checkpointing(base.model, settings.gradient_checkpointing),
        fast_training(base.model, settings.cpu_kernels) as fast,
    ):
        accelerator = make_accelerator()
        optimizer = accelerator.prepare(make_optimizer(live, slow, settings, state))
        stepper = Stepper(base.model, settings, accelerator, optimizer, fast, group)
        run = _Round(stepper, live, {name: f.scaling for name, f in start.items()}, stream, plan, state, began)
        run.train(on_step, on_checkpoint, validate, check)
        return run.result()


class _Round:
    """A round of training under way: what is done so far, and the best factors where training may stop early."""

    def __init__(
        self,
        stepper: Stepper,
        live: LiveFactors,
        scaling: Mapping[str, float],
        stream: Stream,
        plan: RoundPlan,
        state: TrainState,
        began: float,
    ) -> None:
        self.stepper, self.live, self.scaling, self.stream, self.plan = stepper, live, scaling, stream, plan
        self.first = self.num_done = state.num_steps_done
        self.sum_loss, self.best = state.sum_loss_nats, state.best
        self.began_at = self.saved_at = began

    def train(
        self,
        on_step: Callable[[Step], None] | None,
        on_checkpoint: Callable[[TrainState], None] | None,
        validate: Callable[[], float] | None,
        check: Callable[[], None] | None,
    ) -> None:
        """Do the remaining steps of the round; see `train_round`."""
        settings, num_steps = self.stepper.settings, self.plan.num_steps
        while self.num_done < num_steps and not is_over(self.best, settings):
            loss, rate = self.step()
            if validate is not None and is_due(self.num_done, num_steps, settings):
                self.score(validate)
            if on_step is not None:
                on_step(self.report(loss, rate))
            if on_checkpoint is not None and time.monotonic() - self.saved_at >= settings.checkpoint_seconds:
                on_checkpoint(self.state())
                self.saved_at = time.monotonic()
            if check is not None:
                self.stop_if(check, on_checkpoint)

    def step(self) -> tuple[float, float]:
        """Do the next step; its loss and learning rate."""
        settings, group, done = self.stepper.settings, self.stepper.group, self.num_done
        rate = learning_rate(settings, self.plan.first_step + done, self.plan.total_steps)
        block, num_blocks = group.share(*self.plan.blocks_of(done))
        num_batches = settings.gradient_accumulation_steps if self.stepper.fast is None else num_blocks
        batches = step_batches(self.stream, block, num_blocks, num_batches)
        loss = _finite(self.stepper.step(batches, rate), self.plan, done)
        self.sum_loss += loss
        self.num_done += 1
        return loss, rate

    def stop_if(self, check: Callable[[], None], on_checkpoint: Callable[[TrainState], None] | None) -> None:
        """Let `check` end the round, with a state from which it can go on."""
        try:
            check()
        except BaseException:
            if on_checkpoint is not None:
                on_checkpoint(self.state())
            raise

    def score(self, validate: Callable[[], float]) -> None:
        """Score the model, and keep its factors if they are the best so far."""
        fast = self.stepper.fast
        with fast.paused() if fast is not None else nullcontext():
            score = self.stepper.group.from_main(validate)
        self.best = better(self.best, score, self.num_done, self.factors)

    def factors(self) -> dict[str, Factors]:
        """Copies of the factors as they are now."""
        return read_back(self.live, self.scaling)

    def state(self) -> TrainState:
        """The state to save in the middle of the round."""
        own = moments(self.live, self.stepper.optimizer)
        return TrainState(own, self.num_done, self.sum_loss, self.factors(), self.best)

    def report(self, loss: float, rate: float) -> Step:
        """The step that was just done."""
        plan, tokens = self.plan, self.stream.sequence_length
        num_blocks = min(self.num_done * plan.batch_size, plan.num_blocks)
        num_new = num_blocks - self.first * plan.batch_size
        return Step(
            round=plan.round,
            step=self.num_done,
            num_steps=plan.num_steps,
            num_tokens=num_blocks * tokens,
            loss_nats=loss,
            learning_rate=rate,
            tokens_per_second=num_new * tokens / max(time.monotonic() - self.began_at, 1e-9),
        )

    def result(self) -> RoundResult:
        """The result of the round: the best factors where training may stop early, else the last ones."""
        best, done = self.best, self.num_done
        factors = self.factors() if best is None else dict(best.factors)
        after = TrainState(moments(self.live, self.stepper.optimizer))
        num_tokens = self.plan.blocks_before(done if best is None else best.step) * self.stream.sequence_length
        seconds = time.monotonic() - self.began_at
        return RoundResult(factors, after, num_tokens, done, self.sum_loss / done, seconds, best)


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
