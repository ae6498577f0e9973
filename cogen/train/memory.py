"""The memory of training: settings of the allocator, gradient checkpointing, and the peak of this process.

A step allocates the same gigabytes again and again. By default glibc returns every large tensor to the system and
asks for it anew, page fault by page fault. Keeping freed memory in the process, on two cores with steps of 4 x 512
tokens in one pass (benchmarks/LOG.md), turned 2.0 million page faults in three steps into 0.3 million, and raised
tokens per second by about a fifth. Threads keep their own arenas: with a single arena two threads wait for each
other at every tensor, which costs a tenth of the rate.

oneDNN keeps a compiled product for every shape it has met, half a megabyte each and a thousand by default. Blocks
cut into documents always bring new shapes, so a quarter of that is kept here.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from cogen.errors import BaseModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def tune_allocator() -> bool:
    """Tell glibc to keep freed memory, torch to use large pages, oneDNN to keep less; call before torch allocates.

    Returns: whether the allocator took the setting (False on systems without glibc).
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20))
    return all(mallopt(key, value) == 1 for key, value in settings)


@contextmanager
def gradient_checkpointing(model: PreTrainedModel, enabled: bool) -> Iterator[None]:
    """Recompute activations in the backward pass while the block runs; gradients stay the same.

    Each layer keeps only its input. transformers' own switch works in training mode only, which would enable dropout.

    Raises:
        BaseModelError: transformers cannot checkpoint the layers of this architecture.
    Source: Chen et al. (arXiv 1604.06174).
    """
    if not enabled:
        yield
        return
    from torch.utils.checkpoint import checkpoint
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not (model.supports_gradient_checkpointing and layers):
        raise BaseModelError(
            "cannot use gradient checkpointing",
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


def peak_memory_bytes() -> int:
    """Largest resident set of this process so far [bytes]."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
