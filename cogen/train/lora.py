"""LoRA factors on a base model through PEFT: initialise, attach, read back, remove."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cogen.adapter import Factors, lora_config
from cogen.errors import FingerprintMismatch

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from torch.nn import Parameter
    from transformers import PreTrainedModel

TRAIN, FROZEN = "trained", "frozen"  # PEFT puts them in a ModuleDict, where "train" is taken


def init_factors(modules: Mapping[str, tuple[int, int]], rank: int, scaling: float, seed: int) -> dict[str, Factors]:
    """Fresh LoRA factors: A uniform in +-1/sqrt(d_in) as PEFT draws it (Kaiming, a = sqrt 5), B zero.

    Each module has its own generator, and rows are drawn in order: the factors of a smaller rank are the leading
    part of those of a larger one. The rank is at most min(d_out, d_in).
    """
    import torch

    factors = {}
    for name, (d_out, d_in) in modules.items():
        r = min(rank, d_out, d_in)
        generator = torch.Generator().manual_seed(module_seed(seed, name))
        a = (torch.rand(r, d_in, generator=generator) * 2.0 - 1.0) / math.sqrt(d_in)
        factors[name] = Factors(a=a, b=torch.zeros(d_out, r), scaling=scaling)
    return factors


def init_embedding(shape: tuple[int, int], name: str, rank: int, scaling: float, seed: int) -> Factors:
    """Fresh factors of input embeddings, as PEFT draws them: A zero, B standard normal."""
    import torch

    d_out, d_in = shape
    generator = torch.Generator().manual_seed(module_seed(seed, name))
    r = min(rank, *shape)
    return Factors(a=torch.zeros(r, d_in), b=torch.randn(r, d_out, generator=generator).T.contiguous(), scaling=scaling)


def tables(model: PreTrainedModel, names: Iterable[str]) -> frozenset[str]:
    """The modules among `names` that are embeddings, not linear layers."""
    from torch.nn import Embedding

    modules = dict(model.named_modules())
    return frozenset(name for name in names if isinstance(modules.get(name), Embedding))


def module_seed(seed: int, name: str) -> int:
    """A seed for one module, which does not depend on the other modules."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:7], "big")


@contextmanager
def attached(
    model: PreTrainedModel, train: Mapping[str, Factors], frozen: Mapping[str, Factors] | None = None
) -> Iterator[dict[str, tuple[Parameter, Parameter]]]:
    """Attach factors to the linear layers and embeddings of `model` while the block runs.

    Args:
        train: the factors that get gradients, float32 for any dtype of the base.
        frozen: further directions of the adapter, which are not trained.
    Yields: module name to the live parameters `(A, B)` of `train`.
    Raises:
        FingerprintMismatch: a module is absent or has another shape; the model is unchanged.
    """
    from peft import LoraModel

    for factors in (train, frozen or {}):
        _require_fit(model, factors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = LoraModel(model, _bare(train), TRAIN)
        names = [TRAIN]
        if frozen:
            wrapped.peft_config[FROZEN] = _bare(frozen)
            wrapped.inject_adapter(model, FROZEN)
            names.append(FROZEN)
    try:
        wrapped.set_adapter(names)
        live = _fill(model, train, TRAIN, requires_grad=True)
        if frozen:
            _fill(model, frozen, FROZEN, requires_grad=False)
        yield live
    finally:
        wrapped.unload()
        model.requires_grad_(False)


@contextmanager
def attached_all(
    model: PreTrainedModel, adapters: Mapping[str, Mapping[str, Factors]]
) -> Iterator[Callable[[str], None]]:
    """Attach several adapters while the block runs, of which one works at a time, without gradients.

    Attaching takes tenths of a second, changing from one to another takes thousandths.

    Args:
        adapters: any name to factors.
    Yields: a function that takes the name of the adapter that is to work; at first it is the first one.
    Raises:
        FingerprintMismatch: a module is absent or has another shape; the model is unchanged.
    """
    from peft import LoraModel

    for factors in adapters.values():
        _require_fit(model, factors)
    places = {name: f"adapter_{number}" for number, name in enumerate(adapters)}  # PEFT allows no dots in names
    first, *others = adapters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = LoraModel(model, _bare(adapters[first]), places[first])
        try:
            for name in others:
                wrapped.peft_config[places[name]] = _bare(adapters[name])
                wrapped.inject_adapter(model, places[name])
            for name, factors in adapters.items():
                _fill(model, factors, places[name], requires_grad=False)
            wrapped.set_adapter(places[first], inference_mode=True)
            yield lambda name: wrapped.set_adapter(places[name], inference_mode=True)
        finally:
            wrapped.unload()
            model.requires_grad_(False)


@contextmanager
def detached(model: PreTrainedModel) -> Iterator[None]:
    """The base alone while the block runs; what is attached stays in place, switched off."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    before = [layer.disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was


def _bare(factors: Mapping[str, Factors]) -> LoraConfig:
    """A config with which PEFT draws no values: they are overwritten at once, and drawing takes seconds."""
    config = lora_config(factors, "")
    config.init_lora_weights = False
    return config


def _require_fit(model: PreTrainedModel, factors: Mapping[str, Factors]) -> None:
    """Check all shapes before anything is attached: if PEFT fails half-way, it leaves its layers in the model."""
    modules = dict(model.named_modules())
    for name, f in factors.items():
        shape = _shape_of(modules.get(name))
        if f.shape != shape:
            raise FingerprintMismatch(
                "adapter mismatch",
                expected=f"{name} {shape or 'absent'} of the model",
                got=str(f.shape),
                fix="Use adapters that were trained from this base model.",
            )


def _shape_of(layer: torch.nn.Module | None) -> tuple[int, ...]:
    """`(d_out, d_in)` of a layer, from its attributes where it has them, since packed weights have another shape."""
    from torch.nn import Embedding, Linear
    from transformers.pytorch_utils import Conv1D

    if isinstance(layer, Linear):
        return layer.out_features, layer.in_features
    shape = tuple(getattr(getattr(layer, "weight", None), "shape", ()))
    return shape[::-1] if isinstance(layer, (Conv1D, Embedding)) else shape


def _fill(
    model: PreTrainedModel, factors: Mapping[str, Factors], name: str, *, requires_grad: bool
) -> dict[str, tuple[Parameter, Parameter]]:
    import torch

    live = {}
    for path, f in factors.items():
        layer = model.get_submodule(path)
        if name in layer.lora_embedding_A:
            pair = (layer.lora_embedding_A[name], layer.lora_embedding_B[name])
        else:
            pair = (layer.lora_A[name].weight, layer.lora_B[name].weight)
        for parameter, value in zip(pair, (f.a, f.b), strict=True):
            parameter.data = value.detach().clone().to(device=parameter.device, dtype=torch.float32)
            parameter.requires_grad_(requires_grad)
        live[path] = pair
    return live


def read_back(live: Mapping[str, tuple[Parameter, Parameter]], scaling: Mapping[str, float]) -> dict[str, Factors]:
    """Copies of the live factors, float32 on the CPU."""

    def copy(parameter: Parameter) -> torch.Tensor:
        return parameter.detach().to("cpu", copy=True).contiguous()

    return {name: Factors(a=copy(a), b=copy(b), scaling=scaling[name]) for name, (a, b) in live.items()}
