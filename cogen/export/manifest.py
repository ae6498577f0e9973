"""`export.json`: what an exported model was made of, and what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from cogen.adapter import Fingerprint
from cogen.records import Count, Name, Record

EXPORT_MANIFEST = "export.json"


@dataclass(frozen=True)
class ExportScore:
    """Bits per byte of one domain's text before and after.

    Args:
        base, adapter: of the base, and of the base with the adapter at run time, both in float32.
        exported: of the stored model, read back and computed in float32.
        same_top_frac: share of tokens at which the stored model finds the same next token likeliest as `adapter` does.
    """

    domain: str
    num_tokens: int
    base: float
    adapter: float
    exported: float
    same_top_frac: float

    @property
    def kept_frac(self) -> float | None:
        """Share of the adapter's gain that the stored model has; None where the adapter gained nothing."""
        gain = self.base - self.adapter
        return (self.base - self.exported) / gain if gain > 0 else None


class ExportManifest(Record):
    """`export.json`.

    Args:
        target: the form, such as "hf".
        dtype: of the stored weights.
        adapter: name of the adapter's row; `factors_sha256` is the hash of its factors.
        rounding_frac: size of what storing rounded off, relative to the size of the adapter's update: Frobenius norms over
            all adapted layers. 0 in float32.
        scores: one for each domain whose text was given.
        sha256: every other file of the folder to its hash.
    """

    file_name: ClassVar[str] = EXPORT_MANIFEST

    format: Literal[1] = 1
    target: Literal["hf"] = "hf"
    dtype: Name
    base: str
    base_fingerprint: Fingerprint
    adapter: str
    factors_sha256: str
    num_parameters: Count
    rounding_frac: float
    scores: tuple[ExportScore, ...]
    versions: Mapping[str, str]
    sha256: Mapping[str, str]
