"""Cross-entropy over the vocabulary in one pass over the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cogen.train.fast import kernels
from cogen.train.fast.frozen import Frozen

if TYPE_CHECKING:
    from torch import Tensor

    from cogen.train.loss import Difference


def fast_difference(head: Frozen) -> Difference:
    """What `cogen.train.loss.difference` gives, logits through `head`; the way back to hidden states stays float32.

    Softmax minus one-hot must not be rounded to 8 bits by row: all but the likeliest tokens would become 0.
    """

    def difference(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits, nll = head.forward(hidden), torch.empty(len(hidden))
        kernels.softmax_loss(logits.numpy(), targets.numpy(), nll.numpy())
        return nll, logits

    return difference
