"""Cross-entropy over the vocabulary in one pass over the logits; its gradient uses only the likely tokens.

The gradient of a chunk of tokens is (P - one-hot) W. In a vocabulary of tens of thousands of tokens, most columns of P
are almost 0: the columns that stay below `UNLIKELY` in the whole chunk have 1% of the mass and cause 90% of the cost of
the product. Instead of these columns, the gradient gets their mass times the mean row of W.
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

CHUNK_TOKENS = 128  # at most; with 256 and 512 the integer product with the head takes half as long again
COLUMNS = (
    1024  # the number of likely columns is a multiple of this: oneDNN compiles and keeps a product for each new shape
)
UNLIKELY = 1e-4  # error of the gradient 0.4%, at 1e-3 2%; without the mean row 1.6% and 5%


def fast_head(head: Frozen) -> ChunkLoss:
    """A faster `cogen.train.loss.nll_and_gradient` for one head.

    Only logits are computed in 8-bit integers. Softmax minus one-hot is not rounded, because rounding by row would set
    all but the likeliest tokens to 0. If the head has no 8-bit copy, loss and gradient are exact.
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
    """Indices of the columns above `UNLIKELY`, filled up with other columns to a multiple of `COLUMNS`, in order."""
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
