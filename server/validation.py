"""Public text on the server's machine: a client update that makes the model worse on it is dropped."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from cogen.adapter import Factors
from cogen.base import Base, load_base
from cogen.config import RunConfig
from cogen.data import Window, heldout_windows, read_corpus
from cogen.errors import ReplyError
from cogen.evaluate.score import score_windows
from cogen.merge.factored import leading, stack
from cogen.train.lora import attached
from server.replies import DROPPED, ClientUpdate


class Validation:
    """Scores on `federation.validation`; base and text are loaded on first use."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._scored: tuple[Mapping[str, Factors], float] | None = None

    def check(self, current: Mapping[str, Factors], reply: ClientUpdate) -> None:
        """Compare the global factors with and without the client update.

        Raises:
            ReplyError: more bits per byte than `validation_max_worse_bpb` are added.
        """
        if self.config.federation.validation is None:
            return
        limit = self.config.federation.validation_max_worse_bpb
        worse = self.bits_per_byte(_with_update(current, reply)) - self._now(current)
        if not worse <= limit:  # NaN is no better
            raise ReplyError(
                "reply refused",
                expected=f"the validation text to get at most {limit:g} bits per byte worse",
                got=f"{worse:+.4f}",
                where=f"domain {reply.domain!r}",
                fix=DROPPED,
            )

    def bits_per_byte(self, factors: Mapping[str, Factors]) -> float:
        """Bits per byte of the base with `factors` on the validation text."""
        with attached(self._base.model, factors):
            return score_windows(self._base, self._windows, "now", "validation").bits_per_byte

    def _now(self, current: Mapping[str, Factors]) -> float:
        if self._scored is None or self._scored[0] is not current:
            self._scored = current, self.bits_per_byte(current)
        return self._scored[1]

    @cached_property
    def _base(self) -> Base:
        return load_base(self.config.base.name, precision=self.config.base.precision)

    @cached_property
    def _windows(self) -> list[Window]:
        documents = read_corpus(str(self.config.federation.validation)).documents
        limits = self.config.train.sequence_length, self.config.federation.validation_tokens
        return heldout_windows(documents, self._base.tokenizer, *limits)


def _with_update(current: Mapping[str, Factors], reply: ClientUpdate) -> dict[str, Factors]:
    """current + (trained - start), exact, at whatever rank that takes."""
    began = current if reply.start is None else reply.start
    return {
        name: stack([now, trained := reply.factors[name], leading(began[name], trained.rank)[0]], [1.0, 1.0, -1.0])
        for name, now in current.items()
    }
