"""One optimizer step: forward, loss, gradients, AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cogen.config import Train
from cogen.data.pack import Batch
from cogen.errors import TrainingError
from cogen.train.distributed import ALONE, ProcessGroup
from cogen.train.fast.training import FastTraining
from cogen.train.isolation import isolation_of
from cogen.train.passes import alone_pass, autocast, packed_pass
from cogen.train.state import TrainState

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer
    from transformers import PreTrainedModel


EMBEDDING_RATE_FACTOR = 0.1
ADAM_KEYS = ("exp_avg", "exp_avg_sq", "step")
LiveFactors = Mapping[str, tuple["Parameter", "Parameter"]]
"""Module name to the parameters `(A, B)` that are trained."""


def make_accelerator() -> Any:
    """An Accelerator that changes neither device nor precision: its own settings hold for the whole process."""
    from accelerate import Accelerator

    return Accelerator(mixed_precision="no", device_placement=False)


def hidden_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Last hidden states `(N, d)`; no document depends on another one, whatever the architecture.

    Documents share a row if that changes nothing for this model, else each is run alone; see `isolation`.
    """
    import torch

    found = isolation_of(model)
    tokens = torch.from_numpy(batch.tokens).to(model.device)
    if found.is_packed and found.packs(batch.lengths):
        return packed_pass(model, tokens, batch.lengths)
    documents = torch.split(tokens, list(batch.lengths))
    if found.is_packed:
        return torch.cat([packed_pass(model, document, (len(document),)) for document in documents])
    return torch.cat([alone_pass(model, document) for document in documents])


@dataclass(frozen=True)
class Stepper:
    """All that an optimizer step needs except its data and its learning rate.

    Args:
        fast: the fast layers of the CPU; None computes with the model's own.
        group: the processes that share each step.
    """

    model: PreTrainedModel
    settings: Train
    accelerator: Any
    optimizer: Any
    fast: FastTraining | None = None
    group: ProcessGroup = ALONE

    def step(self, batches: Sequence[Batch], rate: float) -> float:
        """Update the factors once, from the mean loss over all predicted tokens of `batches`, and return that loss.

        The result does not depend on how the blocks are divided into batches.

        Raises:
            TrainingError: the norm of the gradient is not finite, and the loss is.
        """
        for settings in self.optimizer.param_groups:
            settings["lr"] = rate * settings.get("rate_factor", 1.0)
        parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        num_predicted = max(self.group.sum(sum(batch.num_predicted for batch in batches)), 1)
        loss_of = self._loss_of(num_predicted)
        if self.fast is not None:
            sum_loss = self.fast.gradients(loss_of, batches, parameters)
        else:
            sum_loss = 0.0
            for batch in batches:
                loss = loss_of(batch)
                self.accelerator.backward(loss)
                sum_loss += float(loss.detach())
        self.group.sum_gradients(parameters)
        mean_loss = self.group.sum(sum_loss)  # where it is not finite, the caller says at which step
        size = float(self.accelerator.clip_grad_norm_(parameters, self.settings.max_grad_norm))
        if math.isfinite(mean_loss) and not math.isfinite(size):
            raise _diverged(size)  # clipping has made the gradient 0 or NaN, and the step would pass in silence
        self.optimizer.step()
        self.optimizer.zero_grad()
        return mean_loss

    def _loss_of(self, num_predicted: float) -> Callable[[Batch], Tensor]:
        """A batch's part of the mean loss over `num_predicted` tokens."""
        import torch

        from cogen.train.loss import head_loss, head_weight, nll_and_gradient

        model, fast = self.model, self.fast
        mean_loss = head_loss(model.device, self.settings, nll_and_gradient if fast is None else fast.head)

        def loss_of(batch: Batch) -> Tensor:
            with autocast(model) if fast is None else nullcontext():
                hidden = hidden_states(model, batch)
            weight, targets = head_weight(model), torch.from_numpy(batch.targets).to(hidden.device)
            return mean_loss(hidden.to(weight.dtype), weight, targets) * (batch.num_predicted / num_predicted)

        return loss_of


def _diverged(size: float) -> TrainingError:
    fix = "Lower train.learning_rate, or start from smaller factors."
    return TrainingError("training diverged", expected="a gradient of finite norm", got=str(size), fix=fix)


def make_optimizer(live: LiveFactors, slow: frozenset[str], settings: Train, state: TrainState) -> Optimizer:
    """AdamW with the moments of `state`; the modules in `slow` learn at a tenth of the rate."""
    import torch

    kinds = ((EMBEDDING_RATE_FACTOR, slow), (1.0, live.keys() - slow))
    groups = [
        {"params": [p for name, pair in live.items() if name in names for p in pair], "rate_factor": factor}
        for factor, names in kinds
        if names
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    for name, parameter in _named(live):
        found = {k: state.moments.get(f"{name}.{k}") for k in ADAM_KEYS}
        average = found["exp_avg"]
        if average is not None and average.shape == parameter.shape:
            optimizer.state[parameter] = {k: v.clone().to(parameter.device) for k, v in found.items() if v is not None}
    return optimizer


def moments(live: LiveFactors, optimizer: Any) -> dict[str, Tensor]:
    """Copies of Adam's state by parameter name, on the CPU."""
    state = optimizer.state
    return {f"{n}.{k}": state[p][k].detach().to("cpu", copy=True) for n, p in _named(live) for k in ADAM_KEYS}


def _named(live: LiveFactors) -> list[tuple[str, Parameter]]:
    return [(f"{name}.{side}", p) for name, pair in live.items() for side, p in zip("AB", pair, strict=True)]
