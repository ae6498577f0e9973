"""Gram statistics of an expert for RegMean: the second moment of each adapted layer's input on the expert's text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from cogen.adapter import Factors, Gram
from cogen.data.pack import Stream, train_batch
from cogen.train.isolation import use_segment_attention
from cogen.train.lora import attached, module_seed
from cogen.train.passes import autocast
from cogen.train.step import hidden_states

if TYPE_CHECKING:
    from torch import Tensor

    from cogen.base import Base

NUM_DIRECTIONS, OVERSAMPLING = 32, 16


def collect_grams(
    base: Base,
    factors: Mapping[str, Factors],
    stream: Stream,
    num_blocks: int,
    *,
    num_directions: int = NUM_DIRECTIONS,
    on_block: Callable[[int], None] | None = None,
) -> dict[str, Gram]:
    """E[x x^T] of every adapted layer's input, with the expert attached, over the first blocks of its text.

    One pass. For each layer only x^T x Omega, for a random Omega `(d_in, num_directions + 16)`, and the trace are in
    memory, never the `(d_in, d_in)` matrix.

    Args:
        stream: the expert's training blocks.
        num_directions: directions of the result; exact if d_in is at most 16 larger.
        on_block: called with the number of blocks done.
    Source: Tropp et al. (arXiv 1706.05736), fixed-rank Nystroem approximation of a positive matrix.
    """
    import torch

    use_segment_attention(base.model)
    with attached(base.model, factors), torch.no_grad(), ExitStack() as hooks:
        estimators = {}
        layers = dict(base.model.named_modules())
        for name, f in factors.items():
            estimators[name] = GramEstimator(f.shape[1], num_directions, module_seed(0, name), base.model.device)
            handle = layers[name].register_forward_pre_hook(_recorder(estimators[name]))
            hooks.callback(handle.remove)
        for block in range(num_blocks):
            with autocast(base.model):
                hidden_states(base.model, train_batch(stream, block, 1))
            if on_block is not None:
                on_block(block + 1)
    return {name: estimator.gram() for name, estimator in estimators.items()}


def _recorder(estimator: GramEstimator) -> Callable[[Any, tuple[Any, ...]], None]:
    def record(layer: Any, inputs: tuple[Any, ...]) -> None:
        estimator.add(inputs[0])

    return record


class GramEstimator:
    """The sum of x x^T Omega over the added rows x, from which the second moment is estimated."""

    def __init__(self, d_in: int, num_directions: int, seed: int, device: Any = "cpu") -> None:
        import torch

        width = min(d_in, num_directions + OVERSAMPLING)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(d_in, width, generator=generator, dtype=torch.float64)
        self.omega = (torch.linalg.qr(drawn).Q if width < d_in else torch.eye(d_in)).float().to(device)
        self.sum = torch.zeros(d_in, width, dtype=torch.float32, device=device)
        self.trace, self.num_rows, self.num_directions = 0.0, 0, num_directions

    def add(self, x: Tensor) -> None:
        """Add rows `(..., d_in)`."""
        rows = x.detach().reshape(-1, x.shape[-1]).float()
        self.sum += rows.T @ (rows @ self.omega)
        self.trace += float(rows.square().sum())
        self.num_rows += len(rows)

    def gram(self) -> Gram:
        """The best approximation of E[x x^T] by `num_directions` directions and a ridge."""
        import torch

        y, omega = self.sum.double().cpu() / self.num_rows, self.omega.double().cpu()
        shift = max(float(y.norm()) * torch.finfo(torch.float32).eps, 1e-30)
        y = y + shift * omega
        core = omega.T @ y
        lower = torch.linalg.cholesky((core + core.T) / 2)
        u, values, _ = torch.linalg.svd(torch.linalg.solve_triangular(lower, y.T, upper=False).T, full_matrices=False)
        count = min(self.num_directions, len(values))
        energy = (values.square() - shift).clamp_min(0.0)[:count]
        d_in, trace = len(y), self.trace / self.num_rows
        left = max(0.0, trace - float(energy.sum())) / max(1, d_in - count)
        ridge = max(left, 1e-6 * trace / d_in, 1e-30)
        above = (energy - ridge).clamp_min(0.0)  # the ridge is in these directions too
        return Gram((u[:, :count] * above.sqrt()).T.float().contiguous(), ridge)
