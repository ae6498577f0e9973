"""What an adapter and a base must agree on."""

from __future__ import annotations

from dataclasses import dataclass

from cogen.errors import ContractMismatch


@dataclass(frozen=True)
class Contract:
    """What an adapter and a base must agree on: three sha256 digests, in hex."""

    weights: str
    tokenizer: str
    modules: str

    def require(self, other: Contract, where: str) -> None:
        """Raise ContractMismatch unless `other` is equal; `where` says whose it is."""
        for name in ("weights", "tokenizer", "modules"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ContractMismatch(
                    "adapter mismatch",
                    expected=f"base {name} {mine[:12]}",
                    got=theirs[:12],
                    where=where,
                    fix="Use adapters that were trained from this very base model.",
                )
