"""Activations computed anew in the backward pass instead of kept: torch's checkpointing, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from cogen.errors import BaseModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def recomputed(model: PreTrainedModel, wanted: bool) -> Iterator[None]:
    """Keep only the inputs of the layers of `model` while the block runs; gradients stay the same.

    transformers' own switch works in training mode only, which would bring dropout to life.

    Raises:
        BaseModelError: the architecture cannot do it.
    Source: Chen et al. (arXiv 1604.06174).
    """
    if not wanted:
        yield
        return
    from torch.utils.checkpoint import checkpoint
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not (model.supports_gradient_checkpointing and layers):
        raise BaseModelError(
            "cannot compute activations anew",
            expected="an architecture whose layers transformers can checkpoint",
            got=type(model).__name__,
            fix="Leave train.gradient_checkpointing off.",
        )
    for layer in layers:
        vars(layer)["forward"] = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]
