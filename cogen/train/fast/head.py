"""Cross-entropy over the vocabulary in one pass over the logits, and its gradient from the likely tokens alone.

The gradient of a chunk of tokens is (P - one-hot) W. With a vocabulary of tens of thousands most columns of P hold
next to nothing: those that no token of the chunk gives more than `UNLIKELY` are a hundredth of the mass, and nine tenths
of the product. They enter as that mass times the mean row of W.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cogen.train.fast import kernels
from cogen.train.fast.frozen import OUTLIERS, Frozen, Rows, integer_sums, round_rows, taken
from cogen.train.fast.kernels import array

if TYPE_CHECKING:
    from torch import Tensor

    from cogen.train.loss import ChunkLoss

CHUNK_TOKENS = 128  # at most; of 256 and 512 the integer product with the head takes half as long again
COLUMNS = 1024  # are taken at a time: oneDNN compiles a product for each new shape, and keeps it
UNLIKELY = 1e-4  # the gradient is off by 0.4%; at 1e-3 by 2%, and without the mean row by 1.6% and 5%


def fast_head(head: Frozen) -> ChunkLoss:
    """What `cogen.train.loss.nll_and_gradient` gives, through `head`.

    Only logits go through 8-bit integers: softmax minus one-hot, rounded by row, would keep the likeliest tokens
    alone. Where the head is not rounded, nothing is dropped of the gradient either.
    """
    if head.by_output is None:
        return _exact
    rounded, mean = head.by_output, head.weight.mean(0, dtype=torch.float32).to(head.weight.dtype)

    def part(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        off, nll, peaks = _rounded(head, rounded, hidden, targets)
        peaks[targets] = 1.0
        likely = _likely(peaks)
        near = taken(off, likely)
        others = near.sum(1, dtype=torch.float32) - off.gather(1, targets[:, None]).squeeze(1)
        rest = 1.0 - torch.exp(-nll) - others
        return nll, (near @ weight.index_select(0, likely)).addr_(rest.to(mean.dtype), mean)

    def chunk(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        pairs = zip(hidden.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True)
        nll, gradient = zip(*(part(h, weight, t) for h, t in pairs), strict=True)
        return torch.cat(nll), torch.cat(gradient)

    return chunk


def _likely(peaks: Tensor) -> Tensor:
    """The columns above `UNLIKELY` and, to a multiple of `COLUMNS`, the first of the others; in order."""
    is_likely = peaks > UNLIKELY
    missing = -int(is_likely.sum()) % COLUMNS
    is_likely[(~is_likely).nonzero()[:missing]] = True
    return is_likely.nonzero().squeeze(1)


def _exact(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits, nll = (hidden @ weight.T).float(), torch.empty(len(hidden))
    kernels.softmax_loss(array(logits), array(targets), array(logits), array(nll))
    return nll, logits.to(weight.dtype) @ weight


def _rounded(head: Frozen, rounded: Rows, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax minus one-hot `(C, V)`, -ln p `(C,)` of the targets, and the largest magnitude of each column `(V,)`."""
    rows, peaks, nll = round_rows(hidden, OUTLIERS), torch.empty(len(head.weight)), torch.empty(len(hidden))
    off, summed = rows.kept @ head.columns(rows).T, integer_sums(rows, rounded)
    given = (summed, rows.scales, rounded.scales, off, targets)
    kernels.rounded_softmax_loss(*map(array, (*given, off, nll, peaks)))
    return off, nll, peaks
