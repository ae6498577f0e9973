"""The self-check of a merge: compare the update on disk with the intended one.

The intended update of each module is multiplied with a few random vectors when it is made, and the written one
afterwards. The mean square of the differences estimates the squared Frobenius distance, without either matrix and
without keeping the intended factors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cogen.adapter import Factors

if TYPE_CHECKING:
    from torch import Tensor

NUM_PROBES = 8


@dataclass(frozen=True)
class SelfCheck:
    """How far the written update is from the intended one, all modules together.

    Args:
        error: |written - intended| / |intended| in the Frobenius norm, estimated by `NUM_PROBES` probes a module.
        expected_error: the error of the cut alone, sqrt(energy cut off); rounding adds to it.
    """

    error: float
    expected_error: float

    @property
    def has_passed(self) -> bool:
        """Whether the error is at most twice the expected one, for the spread of the estimate, plus 1e-4 for rounding."""
        return math.isfinite(self.error) and self.error <= 2.0 * self.expected_error + 1e-4


def checksum(f: Factors, name: str) -> Tensor:
    """delta @ probes `(d_out, NUM_PROBES)`; the probes ~ N(0, 1) follow from the module's name alone."""
    import torch

    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
    generator = torch.Generator().manual_seed(seed)
    probes = torch.randn(f.shape[1], NUM_PROBES, generator=generator).to(f.a)
    return f.scaling * (f.b @ (f.a @ probes))


def self_check(written: Mapping[str, Factors], intended: Mapping[str, Tensor], energy_cut_frac: float) -> SelfCheck:
    """Compare the factors on disk with the checksums of the intended update.

    Args:
        written: the factors; from disk they are read one module at a time.
        intended: `checksum` of each module before the cut.
        energy_cut_frac: the energy cut off, over all modules.
    """
    if written.keys() != intended.keys():
        return SelfCheck(math.inf, math.sqrt(energy_cut_frac))
    off = there = 0.0
    for name, wanted in intended.items():
        off += float((checksum(written[name], name) - wanted).double().square().sum())
        there += float(wanted.double().square().sum())
    return SelfCheck(math.sqrt(off / there) if there > 0 else math.sqrt(off), math.sqrt(energy_cut_frac))
