"""Frozen weights in 4 bits, through bitsandbytes: a quarter of the memory of bfloat16."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from cogen.errors import BaseModelError

if TYPE_CHECKING:
    import torch


def four_bit_options(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` needs to round all linear layers but the head to NF4 while it loads them.

    Args:
        dtype: in which products are computed, from weights that are unpacked for each.
    Raises:
        BaseModelError: the device is no GPU, or bitsandbytes is not installed.
    Source: QLoRA (Dettmers et al., arXiv 2305.14314), with its double quantisation of the scales.
    """
    if device.type != "cuda":
        raise _refused("a CUDA device", device.type, 'Set base.precision = "auto".')
    if find_spec("bitsandbytes") is None:
        raise _refused("the package bitsandbytes", "none", "Install it with pip install 'cogen-ai[gpu]'.")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _refused(expected: str, got: str, fix: str) -> BaseModelError:
    return BaseModelError("cannot load a base in 4 bits", expected=expected, got=got, where="base.precision", fix=fix)
