"""Training on the CPU with fast layers, where each block of a step has its own thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from cogen.parallel import Workers
from cogen.train.attention import NAME as SEGMENTS
from cogen.train.attention import segment_attention
from cogen.train.isolation import isolation_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn import Parameter
    from transformers import PreTrainedModel

    from cogen.data.pack import Batch

NAME = "cogen_blocks"
MAX_DIFFERENCE = 0.5  # relative, of a hidden state; rounding to 8 bits changes it by a tenth
_FITS: MutableMapping[PreTrainedModel, bool] = WeakKeyDictionary()


def can_be_fast(model: PreTrainedModel, kernels: str) -> bool:
    """Whether `fast_training` tries to replace layers of this model."""
    import torch

    return kernels != "off" and model.device.type == "cpu" and model.dtype in (torch.float32, torch.bfloat16)


def shares_rows(model: PreTrainedModel) -> bool:
    """Whether the documents of every batch share a row, as the fast attention needs it.

    Angles that grow with the longest segment are kept in the model, which threads share.
    """
    found = isolation_of(model)
    return found.is_packed and found.longest is None


@contextmanager
def fast_training(model: PreTrainedModel, kernels: str) -> Iterator[FastTraining | None]:
    """Use fast layers and attention while the block runs; LoRA must be attached.

    Args:
        kernels: "auto", "int8", "fused" or "off", see `train.cpu_kernels`.
    Yields: None if the model is unchanged: with "off", not on the CPU, or in bfloat16 with unknown layers.
    """
    if not can_be_fast(model, kernels) or not shares_rows(model):
        yield None
        return
    from cogen.train.fast.frozen import is_int8_fast

    fast = FastTraining(model, int8=kernels == "int8" or (kernels == "auto" and is_int8_fast()))
    if not fast.fits():
        yield None
        return
    with fast.workers():
        yield fast


class FastTraining:
    """A model's fast layers and attention, and how to compute the loss (`head`)."""

    def __init__(self, model: PreTrainedModel, *, int8: bool) -> None:
        import torch
        from transformers import AttentionInterface

        from cogen.train.fast.frozen import Frozen
        from cogen.train.fast.head import fast_head
        from cogen.train.fast.layers import FastLayers
        from cogen.train.loss import head_weight

        narrow = int8 and model.dtype == torch.float32
        AttentionInterface.register(NAME, partial(_attention, kept_as=torch.float16 if narrow else model.dtype))
        self.head = fast_head(Frozen.of(head_weight(model), int8=int8, is_last=True))
        self._model, self._layers, self._workers = model, FastLayers(model, int8=int8), Workers()

    def fits(self) -> bool:
        """Whether the model works with fast layers: float32 always does; bfloat16 is tried once on three tokens.

        In bfloat16 an unknown layer may not accept the float32 residual stream.
        """
        import torch

        if self._model.dtype == torch.float32:
            return True
        if self._model not in _FITS:
            wanted = _hidden(self._model)
            self.put()
            try:
                found = _hidden(self._model)
                _FITS[self._model] = bool((found - wanted).norm() < MAX_DIFFERENCE * wanted.norm())
            except (RuntimeError, TypeError):
                _FITS[self._model] = False
            finally:
                self.take()
        return _FITS[self._model]

    def put(self) -> None:
        """Replace the model's layers and attention."""
        self._layers.put()
        self._model.set_attn_implementation(NAME)

    def take(self) -> None:
        """Restore the model's layers and attention."""
        self._layers.take()
        self._model.set_attn_implementation(SEGMENTS)

    def gradients(
        self, loss_of: Callable[[Batch], Tensor], batches: Sequence[Batch], parameters: Sequence[Parameter]
    ) -> float:
        """Add the gradients of the sum of all losses to `parameters`; returns that sum.

        A thread computes a whole batch, and sums are taken in the order of the batches, so the result does not depend
        on the number of threads.
        """
        import torch

        self._layers.refresh()

        def gradient(batch: Batch) -> tuple[float, tuple[Tensor | None, ...]]:
            loss = loss_of(batch)
            return float(loss.detach()), torch.autograd.grad(loss, parameters, allow_unused=True)

        total = 0.0
        for loss, grads in self._workers.map(gradient, batches):
            total += loss
            for parameter, grad in zip(parameters, grads, strict=True):
                if grad is not None:  # a fused optimiser reads gradients by address, as if laid out like parameters
                    grad = grad.contiguous()
                    parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)
        return total

    @contextmanager
    def workers(self) -> Iterator[None]:
        """Use the fast layers while the block runs, with threads that stay from step to step."""
        self.put()
        try:
            with self._workers:
                yield
        finally:
            self.take()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Use the model's own layers while the block runs, for a score."""
        self.take()
        try:
            yield
        finally:
            self.put()


def _hidden(model: PreTrainedModel) -> Tensor:
    """Last hidden states of three tokens."""
    import torch

    at = torch.arange(3)[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=model.config._attn_implementation != NAME):
        out = model.get_decoder()(input_ids=at, position_ids=at, use_cache=False, segment_lengths=(3,))
    hidden: Tensor = out.last_hidden_state
    return hidden.float()


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segment_lengths: tuple[int, ...],
    scaling: float | None = None,
    sliding_window: int | None = None,
    kept_as: torch.dtype,
    **_: Any,
) -> tuple[Tensor, None]:
    from cogen.train.fast.attention import block_attention

    is_narrow = sliding_window is not None and sliding_window < max(segment_lengths)
    if is_narrow or value.shape[-1] != query.shape[-1]:
        return segment_attention(
            module,
            query,
            key,
            value,
            None,
            segment_lengths=segment_lengths,
            scaling=scaling,
            sliding_window=sliding_window,
        )
    scaling = scaling if scaling is not None else query.shape[-1] ** -0.5
    return block_attention(query[0], key[0], value[0], segment_lengths, scaling, kept_as)[None], None
