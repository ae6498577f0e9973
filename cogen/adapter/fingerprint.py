"""The fingerprint of a base model, by which an adapter is matched to it."""

from __future__ import annotations

from dataclasses import dataclass

from cogen.errors import FingerprintMismatch


@dataclass(frozen=True)
class Fingerprint:
    """Three sha256 digests in hex that must be equal for an adapter and a base."""

    weights: str
    tokenizer: str
    modules: str

    def require(self, other: Fingerprint, where: str) -> None:
        """Raise FingerprintMismatch unless `other` is equal; `where` names its owner in the error."""
        for name in ("weights", "tokenizer", "modules"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise FingerprintMismatch(
                    "adapter mismatch",
                    expected=f"base {name} {mine[:12]}",
                    got=theirs[:12],
                    where=where,
                    fix="Use adapters that were trained from this base model.",
                )
