"""Merging of LoRA adapters: factored algebra, one file a method; tensors in, tensors out.

Nothing here reads a file, logs, or touches global random state, and torch is imported inside the
functions, so that importing the package stays cheap.
"""

from __future__ import annotations

from cogen.merge.combine import Merged, merge_adapters
from cogen.merge.core import CoreSpace, core_space, from_core
from cogen.merge.dare import dare
from cogen.merge.factored import Compressed, compress, leading, normalise_weights, revive, stack
from cogen.merge.increments import aggregate_increments
from cogen.merge.mean import mean
from cogen.merge.ties import ties

__all__ = [
    "Compressed",
    "CoreSpace",
    "Merged",
    "aggregate_increments",
    "compress",
    "core_space",
    "dare",
    "from_core",
    "leading",
    "mean",
    "merge_adapters",
    "normalise_weights",
    "revive",
    "stack",
    "ties",
]
