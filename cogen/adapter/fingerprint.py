"""What an adapter and a base must agree on."""

from __future__ import annotations

from dataclasses import dataclass

from cogen.errors import FingerprintMismatch


@dataclass(frozen=True)
class Fingerprint:
    """What an adapter and a base must agree on: three sha256 digests, in hex."""

    weights: str
    tokenizer: str
    modules: str

    def require(self, other: Fingerprint, where: str) -> None:
        """Raise FingerprintMismatch unless `other` is equal; `where` says whose it is."""
        for name in ("weights", "tokenizer", "modules"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise FingerprintMismatch(
                    "adapter mismatch",
                    expected=f"base {name} {mine[:12]}",
                    got=theirs[:12],
                    where=where,
                    fix="Use adapters that were trained from this very base model.",
                )
