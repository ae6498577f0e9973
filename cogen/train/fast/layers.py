"""Replace a model's layers by faster ones while a round trains, and restore them afterwards.

A norm or feed-forward is replaced only if the fast layer gives the same result on a small random input; unknown
layers stay as they are.

Layers read and write the precision of the model. The residual stream is float32 nevertheless: the embeddings are
passed on as float32, and norms accept that.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from cogen.train.fast.frozen import OUTLIERS, Frozen, Rows, round_rows
from cogen.train.fast.linear import Lora, feed_forward, lora_linear
from cogen.train.fast.norm import rms_norm, rotate

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

Forward = Callable[..., Any]
ROTARY = "apply_rotary_pos_emb"  # what every Llama-like architecture calls it
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.02}  # another kind of norm or feed-forward differs by more


class FastLayers:
    """Fast forms of the LoRA layers, feed-forwards, norms, embeddings and rotary positions of a model.

    Args:
        model: float32 or bfloat16 on the CPU, LoRA attached.
        int8: multiply with frozen weights in 8-bit integers.
    """

    def __init__(self, model: PreTrainedModel, *, int8: bool) -> None:
        memory = _LastRounded(int8)
        self._factors: list[_Factors] = []
        found = [(layer, _fast_form(layer, memory, self._factors)) for layer in model.modules()]
        table = model.get_input_embeddings()
        table = getattr(table, "base_layer", table)
        found += [(table, _table_form(table))]
        self._forms = [(layer, form) for layer, form in found if form is not None]
        self._rotary = _rotary_of(model)

    def refresh(self) -> None:
        """Read the current factors again: a fused optimizer changes them without changing their version."""
        for factors in self._factors:
            factors.refresh()

    def put(self) -> None:
        """Replace the model's layers."""
        self.refresh()
        for layer, form in self._forms:
            vars(layer)["forward"] = form
        if self._rotary is not None:
            setattr(self._rotary[0], ROTARY, _whole_heads_by_kernel(self._rotary[1]))

    def take(self) -> None:
        """Restore the model's layers."""
        for layer, _ in self._forms:
            vars(layer).pop("forward", None)
        if self._rotary is not None:
            setattr(self._rotary[0], ROTARY, self._rotary[1])


class _LastRounded:
    """The last rounded input of each thread, since query, key and value read the same input."""

    def __init__(self, int8: bool) -> None:
        self.int8 = int8
        self._local = threading.local()

    def rows(self, x: Tensor) -> Rows | None:
        """The rounded rows of x; None if nothing is rounded."""
        if not self.int8:
            return None
        last, rows = getattr(self._local, "last", (None, None))
        if last is not x or rows is None:
            rows = round_rows(x.flatten(0, -2), OUTLIERS)
            self._local.last = (x, rows)
        return rows


class _Factors:
    """The active adapters of a layer as one: the A stacked by rows, the scaled B by columns."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.refresh()

    def refresh(self) -> None:
        """Prepare the current factors for the products."""
        a, b = self.trained()
        self.lora = Lora.of(a, b, self._scalings()[0], self._layer.base_layer.weight.dtype)

    def trained(self) -> tuple[Tensor, Tensor]:
        """A and B, differentiable."""
        pairs = [(self._layer.lora_A[n].weight, self._layer.lora_B[n].weight) for n in self._names()]
        if len(pairs) == 1:
            return pairs[0]
        first, *_ = scalings = self._scalings()
        scaled = [b * (s / first) for (_, b), s in zip(pairs, scalings, strict=True)]
        return torch.cat([a for a, _ in pairs]), torch.cat(scaled, dim=1)

    def _names(self) -> list[str]:
        return [n for n in self._layer.active_adapters if n in self._layer.lora_A]

    def _scalings(self) -> list[float]:
        return [self._layer.scaling[n] for n in self._names()]


def _fast_form(layer: nn.Module, memory: _LastRounded, known: list[_Factors]) -> Forward | None:
    if hasattr(layer, "variance_epsilon") and hasattr(layer, "weight"):
        return _norm_form(layer)
    if all(_is_plain(getattr(layer, name, None)) for name in ("gate_proj", "up_proj", "down_proj")):
        return _feed_forward_form(layer, memory, known)
    return _lora_form(layer, memory, known) if _is_plain(layer) else None


def _is_plain(layer: Any) -> bool:
    """Whether this is a plain linear layer with plain LoRA only."""
    from peft.tuners.lora.layer import Linear as LoraLinear

    if not isinstance(layer, LoraLinear) or type(layer.base_layer) is not torch.nn.Linear:
        return False
    names = [n for n in layer.active_adapters if n in layer.lora_A]
    odd = [layer.fan_in_fan_out, layer.merged, *(n in layer.lora_variant for n in names)]
    odd += [layer.lora_B[n].bias is not None for n in names]
    return bool(names) and not any(odd) and all(isinstance(layer.lora_dropout[n], torch.nn.Identity) for n in names)


def _lora_form(layer: Any, memory: _LastRounded, known: list[_Factors]) -> Forward:
    frozen, bias = Frozen.of(layer.base_layer.weight, int8=memory.int8), layer.base_layer.bias
    factors = _Factors(layer)
    known.append(factors)

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        x = x.to(frozen.weight.dtype)
        trained, lora = factors.trained(), factors.lora
        return _in_rows(lambda flat: lora_linear(flat, trained, lora, frozen, bias, memory.rows(x)), x)

    return forward


def _feed_forward_form(layer: Any, memory: _LastRounded, known: list[_Factors]) -> Forward | None:
    parts = (layer.gate_proj, layer.up_proj, layer.down_proj)
    if any(part.base_layer.bias is not None for part in parts):
        return None
    frozen = [Frozen.of(part.base_layer.weight, int8=memory.int8) for part in parts]
    exact = [Frozen(f.weight) for f in frozen]
    factors = [_Factors(part) for part in parts]
    dtype = frozen[0].weight.dtype

    def forward(x: Tensor, weights: list[Frozen] = frozen) -> Tensor:
        x = x.to(dtype)
        layers = [(weight, f.lora) for weight, f in zip(weights, factors, strict=True)]
        trained = [t for f in factors for t in f.trained()]
        rows = memory.rows(x) if weights is frozen else None
        return _in_rows(lambda flat: feed_forward(flat, layers, trained, rows), x)

    if not _is_same(layer, lambda x: forward(x, exact), parts[0].base_layer.in_features, dtype):
        return None
    known.extend(factors)
    return forward


def _norm_form(layer: Any) -> Forward | None:
    weight, dtype = layer.weight.detach().float(), layer.weight.dtype

    def forward(x: Tensor) -> Tensor:
        return _in_rows(lambda flat: rms_norm(flat.float(), weight, layer.variance_epsilon, dtype), x)

    return forward if _is_same(layer, forward, len(weight), dtype) else None


def _table_form(table: Any) -> Forward | None:
    """Embeddings that return float32; None for a float32 model, whose embeddings do so already."""
    if type(table) is not torch.nn.Embedding or table.weight.dtype == torch.float32:
        return None
    return lambda ids: torch.nn.functional.embedding(ids, table.weight).float()


def _in_rows(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`run` on x `(..., d)` as `(N, d)`."""
    return run(x.flatten(0, -2)).view(*x.shape[:-1], -1)


def _is_same(layer: nn.Module, forward: Forward, width: int, dtype: torch.dtype) -> bool:
    """Whether `forward` gives the result of the layer on three random tokens, up to the rounding of `dtype`."""
    probe = torch.randn(1, 3, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        try:
            wanted, found = layer(probe).float(), forward(probe).float()
        except (RuntimeError, TypeError):
            return False
    return bool((found - wanted).norm() <= ROUNDING[dtype] * wanted.norm())


def _rotate_both(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary positions on `(1, H, N, D)` of one row of tokens."""
    angles = cos[0].float(), sin[0].float()
    rotated = [rotate(x[0].transpose(0, 1), *angles).transpose(0, 1)[None] for x in (query, key)]
    return rotated[0], rotated[1]


def _whole_heads_by_kernel(theirs: Forward) -> Forward:
    """`_rotate_both` where it is meant for, and the model's own function for heads that are rotated in part."""

    def forward(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> Any:
        is_known = not args and not kwargs and query.dim() == 4 and cos.shape == (1, query.shape[2], query.shape[3])
        if is_known and len(query) == 1 and key.shape[2:] == query.shape[2:]:
            return _rotate_both(query, key, cos, sin)
        return theirs(query, key, cos, sin, *args, **kwargs)

    return forward


def _rotary_of(model: PreTrainedModel) -> tuple[Any, Forward] | None:
    """The module that holds the model's rotary function, and the function, if it gives the same result as ours."""
    home: Any = sys.modules[type(model).__module__]
    theirs: Forward | None = getattr(home, ROTARY, None)
    if theirs is None:
        return None
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, heads, 3, 8, generator=generator) for heads in (2, 1))
    angles = torch.randn(1, 3, 4, generator=generator).repeat(1, 1, 2)
    given = (query, key, angles.cos(), angles.sin())
    try:
        pairs = zip(theirs(*given), _rotate_both(*given), strict=True)
        return (home, theirs) if all(torch.allclose(a, b, atol=1e-5) for a, b in pairs) else None
    except (RuntimeError, TypeError):
        return None
