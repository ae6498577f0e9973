"""What is audited: each domain's text with the blocks that were trained, and the models to attack with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.adapter import Adapter, Factors
from cogen.audit.windows import AuditText
from cogen.base import leading_id
from cogen.config import Train
from cogen.data import PackedStream, Prepared, tokenize
from cogen.evaluate.matrix import NotMeasured
from cogen.train.mixture import Mixture
from cogen.train.schedule import plan_round

if TYPE_CHECKING:
    from cogen.base import Base


@dataclass(frozen=True)
class AuditedModel:
    """A model, and which blocks of the domain's own stream it was trained on."""

    name: str
    folder: Path
    blocks: frozenset[int]

    def factors(self) -> Mapping[str, Factors]:
        """Its factors, read now."""
        return Adapter.load(self.folder).factors


@dataclass(frozen=True)
class Training:
    """How the audited adapter was trained, to train another one like it on text with canaries; all tokens in one round."""

    settings: Train
    mixture: Mixture

    @property
    def num_tokens(self) -> int:
        """Tokens to train."""
        return plan_round(self.settings, 1, 1).num_blocks * self.settings.sequence_length


@dataclass(frozen=True)
class AuditedDomain:
    """One domain's text and its models.

    Args:
        training: None where text that was mixed in is not known here.
    """

    name: str
    text: AuditText
    models: tuple[AuditedModel, ...]
    training: Training | None = None


@dataclass(frozen=True)
class Targets:
    """All that is audited, and what cannot be."""

    domains: tuple[AuditedDomain, ...]
    not_measured: tuple[NotMeasured, ...]


def audit_text(base: Base, prepared: Prepared, settings: Train, blocks: Sequence[int]) -> AuditText:
    """The text of a corpus as training with `settings` packed it."""
    bos = leading_id(base.tokenizer)
    stream = PackedStream(prepared.train, settings.sequence_length, settings.seed, bos)
    return AuditText(stream, blocks, tokenize(prepared.heldout, base.tokenizer) if prepared.heldout else [])
