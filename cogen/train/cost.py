"""What training costs with given settings, estimated before it starts, for `cogen train` and the data card."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

from cogen.adapter import Layout
from cogen.base import BaseInfo, compute_dtype
from cogen.config import Domain, RunConfig, Train
from cogen.data import card
from cogen.train.fast.training import can_be_fast
from cogen.train.schedule import RoundPlan, plan_round
from cogen.train.start import start_layouts
from cogen.train.throughput import blocks_at_once, live_blocks

if TYPE_CHECKING:
    from torch import dtype

    from cogen.base import Base

FLOAT_BYTES = 4  # factors, their gradients and Adam's moments are float32 whatever the base's dtype
NUM_MOMENTS = 2
# Bytes of activations for a token and each in- or output of a linear layer. They are fitted to measurements with
# SmolLM2-135M at 4 x 512 tokens: 3.0 GB in bfloat16, 6.6 GB in float32; with fast layers, for bfloat16 and float32,
# 1.9 and 2.4 GB on one thread, 2.5 and 3.5 GB on two.
HALF_BYTES, FULL_BYTES, FAST_BYTES = 3.3, 8.6, {2: 4.0, 4: 6.5}
ROUNDED_BYTES = 2  # for each weight of fast layers: 8 bits for the forward and 8 for the backward pass
RUNTIME_BYTES = 600_000_000
LITTLE = 0.9  # of the weights; a smaller share of adapted ones is worth a warning


@dataclass(frozen=True)
class TrainingCost:
    """Figures of one domain's training; memory is an estimate, and an adapter's file has a few kilobytes of names on top.

    Args:
        adapted_frac: share of the base's parameters, apart from embeddings and head, that are in adapted layers.
        warning: what stays as it is, where that is much.
    """

    num_parameters: int
    num_modules: int
    adapter_bytes: int
    optimizer_bytes: int
    peak_memory_bytes: int
    num_steps: int
    num_tokens: int
    adapted_frac: float | None = None
    warning: str = ""

    def __str__(self) -> str:
        share = "" if self.adapted_frac is None else f" with {100 * self.adapted_frac:.3g}% of the weights"
        return (
            f"{self.num_parameters / 1e6:.3g}M trainable parameters in {self.num_modules} modules{share}"
            f" · adapter {self.adapter_bytes / 1e6:.3g} MB · optimiser {self.optimizer_bytes / 1e6:.3g} MB"
            f" · memory about {self.peak_memory_bytes / 1e9:.1f} GB"
            f" · {self.num_steps} steps · {self.num_tokens} tokens"
        )


@dataclass(frozen=True)
class MemoryUse:
    """Memory besides the factors, their gradients and moments.

    Args:
        base_bytes: bytes of the base's weights.
        value_bytes: bytes for a token and each in- or output of a linear layer.
        live_blocks: blocks whose activations are in memory at a time.
        rounded_bytes: bytes of rounded copies of each frozen weight.
    """

    base_bytes: int
    value_bytes: float
    live_blocks: int
    rounded_bytes: int = 0

    @classmethod
    def of(cls, base_bytes: int, dtype: dtype, blocks: tuple[int, bool]) -> MemoryUse:
        """For the base's dtype and the result of `blocks_at_once`."""
        live_blocks, is_fast = blocks
        if is_fast:
            return cls(base_bytes, FAST_BYTES[dtype.itemsize], live_blocks, ROUNDED_BYTES)
        return cls(base_bytes, HALF_BYTES if dtype.itemsize == 2 else FULL_BYTES, live_blocks)


def cost_of(
    layouts: Mapping[str, Layout],
    modules: Mapping[str, tuple[int, int]],
    held: MemoryUse,
    plan: RoundPlan,
    settings: Train,
) -> TrainingCost:
    """The cost of the round `plan`.

    Each module has r (d_in + d_out) parameters. Peak memory is the sum of the base, 16 bytes for each parameter
    (the parameter, its gradient, two moments of Adam), rounded copies of the base's weights, the activations kept for
    the backward pass, and 600 MB for the libraries. With `gradient_checkpointing` only the activations of one layer
    and the input of each layer are kept.

    Args:
        layouts: layouts of the trained factors.
        modules: all linear layers of the base but the head, name to `(d_out, d_in)`.
    """
    parameters = sum(layout.rank * (layout.d_in + layout.d_out) for layout in layouts.values())
    size = parameters * FLOAT_BYTES
    values = float(sum(d_out + d_in for d_out, d_in in modules.values()))
    if settings.gradient_checkpointing:
        num_layers = len({number[0] for name in modules if (number := re.search(r"\d+", name))}) or 1
        values = values / num_layers + num_layers * next(iter(modules.values()))[1]
    activations = held.value_bytes * settings.sequence_length * held.live_blocks * values
    rounded = held.rounded_bytes * sum(d_out * d_in for d_out, d_in in modules.values())
    return TrainingCost(
        num_parameters=parameters,
        num_modules=len(layouts),
        adapter_bytes=size,
        optimizer_bytes=NUM_MOMENTS * size,
        peak_memory_bytes=round(RUNTIME_BYTES + held.base_bytes + rounded + (2 + NUM_MOMENTS) * size + activations),
        num_steps=plan.num_steps,
        num_tokens=plan.num_blocks * settings.sequence_length,
    )


def training_cost(base: Base, settings: Train) -> TrainingCost:
    """The cost of a round of `cogen train` with a base in memory."""
    size = sum(p.numel() * p.element_size() for p in base.model.parameters())
    held = MemoryUse.of(size, base.model.dtype, blocks_at_once(base, settings))
    return _told(base.info, held, settings)


def _told(info: BaseInfo, held: MemoryUse, settings: Train) -> TrainingCost:
    """The cost, and the share of the weights that is adapted."""
    layouts = start_layouts(info.modules, settings, info.embeddings)
    cost = cost_of(layouts, info.modules, held, plan_round(settings, 1, 1), settings)
    share = adapted_frac(info, layouts)
    warning = _little(info, share) if settings.target_modules is None and share < LITTLE else ""
    return replace(cost, adapted_frac=share, warning=warning)


def adapted_frac(info: BaseInfo, names: Iterable[str]) -> float:
    """The share of the base's parameters, apart from embeddings and head, that are weights of these layers."""
    adapted = sum(d_out * d_in for d_out, d_in in (info.modules[n] for n in names if n in info.modules))
    return adapted / max(info.num_parameters, adapted, 1)


def _little(info: BaseInfo, share: float) -> str:
    """One sentence that names the fused tensors and their share."""
    fused = sum(info.fused.values()) / max(info.num_parameters, 1)
    rest = f"{', '.join(info.fused)} hold {100 * fused:.3g}%" if info.fused else "the others are in no linear layer"
    return f"warning: LoRA adapts only {100 * share:.3g}% of the weights of {info.name}; {rest}, and stay as they are"


def round_cost(info: BaseInfo, config: RunConfig, domain: Domain, num_threads: int) -> TrainingCost:
    """The cost of a round for a domain whose machine is like this one; the base is not loaded.

    Args:
        num_threads: threads that training uses.
    """
    import torch

    own = {"rank": config.rank_of(domain), "tokens_per_round": config.tokens_of(domain)}
    settings = config.train.model_copy(update=own)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    like = SimpleNamespace(device=device, dtype=compute_dtype(device, config.base.precision))
    is_fast = can_be_fast(like, settings.cpu_kernels)
    held = MemoryUse.of(
        num_weights(info) * like.dtype.itemsize, like.dtype, live_blocks(settings, num_threads, is_fast)
    )
    return _told(info, held, settings)


def num_weights(info: BaseInfo) -> int:
    """The number of weights in a base's files; reads only their headers."""
    import math

    from safetensors import safe_open

    total = 0
    for path in sorted(info.folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as opened:
            total += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    return total


def card_cost(cost: TrainingCost, num_train_tokens: int, tokens_per_second: float) -> card.CorpusCost:
    """The cost for the data card, with the time that training takes.

    Args:
        num_train_tokens: training tokens of one epoch.
        tokens_per_second: as measured by `measure_rate`.
    """
    return card.CorpusCost(
        num_tokens=cost.num_tokens,
        tokens_per_second=tokens_per_second,
        minutes=cost.num_tokens / tokens_per_second / 60,
        epoch_minutes=num_train_tokens / tokens_per_second / 60,
        peak_memory_mb=cost.peak_memory_bytes / 1e6,
        adapter_mb=cost.adapter_bytes / 1e6,
    )
