"""Merging of LoRA adapters: factored algebra, one file a method; tensors in, tensors out.

Nothing here reads files (only adapters from `Adapter.open` read their own), logs, or touches global random state.
Torch is imported inside the functions, so that importing the package is fast.
"""

from __future__ import annotations

from cogen.merge.checksum import SelfCheck, checksum, self_check
from cogen.merge.client_updates import TrainedFactors, aggregate_updates
from cogen.merge.combine import Merged, merge_adapters
from cogen.merge.core import SharedSpace, core_space, from_core, knots_space
from cogen.merge.dare import dare
from cogen.merge.factored import Compressed, compress, leading, normalise_weights, revive, stack
from cogen.merge.iso import iso
from cogen.merge.mean import mean
from cogen.merge.pico import calibrate, restore
from cogen.merge.plan import Override
from cogen.merge.procrustes import procrustes_align
from cogen.merge.regmean import regmean
from cogen.merge.robust import Robust, Weighed, inner_products, weigh
from cogen.merge.rule import METHODS, Rule, combine
from cogen.merge.server_step import ServerOptimizer, ServerState, server_step
from cogen.merge.ties import ties
from cogen.merge.tsv import tsv

__all__ = [
    "METHODS",
    "Compressed",
    "Merged",
    "Override",
    "Robust",
    "Rule",
    "SelfCheck",
    "ServerOptimizer",
    "ServerState",
    "SharedSpace",
    "TrainedFactors",
    "Weighed",
    "aggregate_updates",
    "calibrate",
    "checksum",
    "combine",
    "compress",
    "core_space",
    "dare",
    "from_core",
    "inner_products",
    "iso",
    "knots_space",
    "leading",
    "mean",
    "merge_adapters",
    "normalise_weights",
    "procrustes_align",
    "regmean",
    "restore",
    "revive",
    "self_check",
    "server_step",
    "stack",
    "ties",
    "tsv",
    "weigh",
]
