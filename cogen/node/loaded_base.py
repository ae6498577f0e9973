"""The base model of a trainer's process: loaded once, for all runs and domains of the process.

A joined domain names the fingerprint that it joined with. Then the fingerprint is computed from the files, and not taken from
the cache, which goes by their sizes and times.
"""

from __future__ import annotations

from functools import lru_cache

from cogen.adapter import Fingerprint
from cogen.base import Base, load_base
from cogen.train.fast.training import fast_training
from cogen.train.isolation import use_segment_attention
from cogen.train.lora import attached, init_factors
from cogen.train.step import make_accelerator


def preload(
    name: str, precision: str = "auto", cpu_kernels: str = "auto", *, fingerprint: Fingerprint | None = None
) -> None:
    """Load a base and prepare it as runs use it by default, so that the first round need not."""
    base = loaded(name, precision, fingerprint)
    use_segment_attention(base.model)
    with attached(base.model, init_factors(base.info.modules, 1, 1.0, 0)), fast_training(base.model, cpu_kernels):
        make_accelerator()


@lru_cache(maxsize=1)
def loaded(name: str, precision: str, fingerprint: Fingerprint | None) -> Base:
    """The base of this name.

    Raises:
        BaseModelError: it cannot be loaded.
        FingerprintMismatch: its files have another fingerprint than the one that is given.
    """
    return load_base(name, precision=precision, fingerprint=fingerprint)


@lru_cache(maxsize=4096)
def layer_norm(name: str, precision: str, fingerprint: Fingerprint | None, module: str) -> float:
    """Frobenius norm of a layer's weight; of a packed one, after unpacking."""
    weight = loaded(name, precision, fingerprint).model.get_submodule(module).weight
    if (state := getattr(weight, "quant_state", None)) is not None:
        from bitsandbytes.functional import dequantize_4bit  # type: ignore[import-not-found]

        return float(dequantize_4bit(weight.data, state).float().norm())
    return float(weight.detach().float().norm())
