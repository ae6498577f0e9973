"""What a domain does in a run: train rounds and score models."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cogen.adapter import Factors, Fingerprint
from cogen.adapter.factors import is_finite
from cogen.adapter.gate import GateStatistics
from cogen.base import Base
from cogen.config import Train
from cogen.data import Document, heldout_windows
from cogen.data.pack import PackedStream, Stream, train_batch
from cogen.evaluate.matrix import Cell
from cogen.evaluate.score import nothing_held_out, score_windows
from cogen.merge.factored import norm
from cogen.node.domain_settings import DomainSettings
from cogen.node.home import JoinedDomain
from cogen.node.loaded_base import layer_norm, loaded
from cogen.node.policy import Policy, refused
from cogen.node.round_start import model_digest, split_rank
from cogen.node.round_states import RoundStates
from cogen.node.score_book import HeldoutText, Scorer, score_always
from cogen.node.stopping import Check, go_on
from cogen.protocol.settings import WorkSettings
from cogen.runs import append_line
from cogen.train.loop import RoundResult, Step, train_round
from cogen.train.lora import attached
from cogen.train.memory import peak_memory_bytes
from cogen.train.mixture import make_stream, read_mixture, state_key
from cogen.train.schedule import Visit, plan_round
from cogen.train.text_states import STATISTICS_TOKENS, gate_blocks, statistics_of


@dataclass(frozen=True)
class DomainData:
    """One domain's packed training part, its held-out windows, and the key of its saved states."""

    stream: Stream
    own: PackedStream
    """The blocks of the domain's own corpus alone."""
    heldout: HeldoutText
    heldout_documents: Sequence[Document]
    key: str


@dataclass(frozen=True)
class TrainedRound:
    """What a round gave: the trained factors and its figures."""

    factors: dict[str, Factors]
    num_tokens: int
    bits_per_byte_before: float | None
    bits_per_byte_after: float | None
    seconds: float


class Trainer:
    """One domain in one run: its settings, its data (read on first use), and the base model, which a process loads once.

    The same round with the same global factors gives the same result: optimiser states are kept by round, and a round
    always starts from the state of the one before it. A round that was cut off continues from the last saved state and
    ends with the same bits.

    Args:
        settings: of the domain's work in this run.
        own: what the domain decides about its text.
        data: the corpus. base: the base model. folder: for optimiser states and training logs.
        joined: of a domain of a real federation.
    """

    def __init__(
        self,
        settings: WorkSettings,
        own: DomainSettings,
        domain: str,
        data: str,
        base: str,
        folder: Path,
        joined: JoinedDomain | None = None,
    ) -> None:
        settings.train.require_rounds()
        self.settings, self.own, self.domain = settings, own, domain
        self.corpus, self.base_name, self.folder, self.joined = data, base, folder, joined

    @property
    def text_settings(self) -> Train:
        """The settings of the round, with the domain's own text to mix in and its own order of documents."""
        order = {} if self.joined is None or self.joined.order_seed is None else {"seed": self.joined.order_seed}
        return self.settings.train.model_copy(update={**self.own.mix.model_dump(), **order})

    @property
    def base(self) -> Base:
        return loaded(*self._base_key)

    @property
    def _base_key(self) -> tuple[str, str, Fingerprint | None]:
        """Name, precision and, for a joined domain, the fingerprint that its files must have."""
        return self.base_name, self.settings.precision, None if self.joined is None else self.joined.fingerprint

    def train(
        self,
        round_number: int,
        current: Mapping[str, Factors],
        scorer: Scorer = score_always,
        check: Check = go_on,
        visit: Visit | None = None,
    ) -> TrainedRound:
        """Train round `round_number` from the global factors `current`.

        A domain with a lower rank trains the leading directions and holds the others frozen. A domain with a higher
        rank adds new directions, which change nothing at first.
        """
        began = time.monotonic()
        start, rest = split_rank(current, self.settings.rank, self.settings.train.seed + round_number)
        scored = self._round_text()
        before = self._score(start, rest, scored, scorer, check)
        result = self._train_round(round_number, start, rest, check, visit)
        after = self._score(result.factors, rest, scored, scorer, check)
        return TrainedRound(result.factors, result.num_tokens, before, after, time.monotonic() - began)

    def evaluate(
        self, models: Mapping[str, Mapping[str, Factors]], scorer: Scorer = score_always, check: Check = go_on
    ) -> dict[str, Cell]:
        """Score the base and every model on the domain's held-out part; a model without a figure is missing.

        Raises:
            DataError: nothing is held out.
        """
        if not self.data.heldout.windows:
            raise nothing_held_out(self.domain)
        found = {
            name: self._cell(factors, None, self.data.heldout, scorer, check)
            for name, factors in {"base": {}, **models}.items()
        }
        return {name: cell for name, cell in found.items() if cell is not None}

    def gate_statistics(self, round_number: int) -> GateStatistics:
        """Of the domain's own text in a round, for the gate of a routed model."""
        own = self.data.own
        return statistics_of(self.base, (train_batch(own, block, 1) for block in self._gate_blocks(round_number)))

    def _gate_blocks(self, round_number: int) -> list[int]:
        plan = plan_round(self.settings.train, round_number, self.settings.num_rounds)
        size = self.settings.train.sequence_length
        return [plan.first_block + i for i in gate_blocks(plan.num_blocks, STATISTICS_TOKENS, size)]

    def require_text(self, policy: Policy, round_number: int) -> None:
        """Refuse a round over too little text of the domain's own, or steps over most of it, whatever was asked for.

        Raises:
            PolicyError: the corpus or the round has too few tokens or documents.
        """
        plan = plan_round(self.settings.train, round_number, self.settings.num_rounds)
        if self.data.own.epoch_tokens < policy.min_tokens_per_round:
            raise refused(f"a corpus of at least {policy.min_tokens_per_round} training tokens", "fewer")
        # A step over the whole corpus is the same step in every order, so the order would keep no secret.
        step_tokens = min(plan.batch_size, plan.num_blocks) * self.settings.train.sequence_length
        if policy.private_order and 2 * step_tokens > self.data.own.epoch_tokens:
            raise refused("optimizer steps of at most half of the domain's training tokens", "larger ones")
        # Blocks of mixed-in text among those of the round only make its own blocks start earlier.
        if self.data.own.num_documents(plan.first_block, plan.num_blocks) < policy.min_documents:
            raise refused(f"a round over at least {policy.min_documents} documents", "fewer")
        if self.settings.gate:
            blocks = self._gate_blocks(round_number)
            if len({p.document for block in blocks for p in self.data.own.places(block)}) < policy.min_documents:
                raise refused(f"statistics for a gate over at least {policy.min_documents} documents", "fewer")

    def require_small(self, factors: Mapping[str, Factors], max_norm: float) -> None:
        """Refuse an adapter that changes a layer by more than a share `max_norm` of its norm; 0 is no limit.

        Raises:
            PolicyError: the change is larger, or not finite, or of a higher rank than the layer; or a layer is not that of
                the base.
        """
        import torch

        for name, f in factors.items():
            if self.base.info.modules.get(name) != f.shape:
                raise refused("adapters of this base's layers", "another layer or another shape")
            if f.a.dtype != torch.float32 or f.b.dtype != torch.float32:
                raise refused("an adapter of float32 numbers", "another")
            if f.rank != f.b.shape[1] or f.rank > min(f.shape):  # its norm takes rank^2 numbers
                raise refused("an adapter of at most a layer's own rank", "a higher one")
            if not (is_finite(f.a) and is_finite(f.b)):
                raise refused("an adapter of finite numbers", "another")
            if max_norm and norm(f) > max_norm * layer_norm(*self._base_key, name):
                raise refused(f"adapters that change a layer by up to {max_norm:g} of its norm", "a larger change")

    @cached_property
    def data(self) -> DomainData:
        """The corpus, read, cleaned and packed on first use."""
        train, heldout, name = self.text_settings, self.own.heldout, self.domain
        place = None if self.joined is None else self.joined.prepared
        corpora, frac = {name: self.corpus}, heldout.heldout_frac
        mixture = read_mixture(self.base, corpora, train, frac, self.own.data, cache_dir=place)
        total = plan_round(train, 1, self.settings.num_rounds).total_blocks
        window = min(heldout.sequence_length, self.base.info.max_tokens or heldout.sequence_length)
        documents = mixture.corpora[name].heldout
        windows = heldout_windows(documents, self.base.tokenizer, window, heldout.max_heldout_tokens)
        own = PackedStream(mixture.corpora[name].train, train.sequence_length, train.seed, mixture.bos)
        return DomainData(
            stream=make_stream(mixture, train, total),
            own=own,
            heldout=HeldoutText(windows, sum(bool(d.text) for d in documents)),
            heldout_documents=documents,
            key=state_key(self.base, mixture, train),
        )

    def _round_text(self) -> HeldoutText:
        """The first of the held-out windows, up to `round_heldout_tokens`."""
        left, chosen = self.own.heldout.round_heldout_tokens, []
        for window in self.data.heldout.windows:
            if left <= 0:
                break
            chosen.append(window)
            left -= len(window.tokens)
        return HeldoutText(chosen, self.data.heldout.num_documents)

    def _score(
        self,
        train: Mapping[str, Factors],
        rest: Mapping[str, Factors] | None,
        heldout: HeldoutText,
        scorer: Scorer,
        check: Check,
    ) -> float | None:
        cell = self._cell(train, rest, heldout, scorer, check)
        return None if cell is None else cell.bits_per_byte

    def _cell(
        self,
        train: Mapping[str, Factors],
        rest: Mapping[str, Factors] | None,
        heldout: HeldoutText,
        scorer: Scorer,
        check: Check,
    ) -> Cell | None:
        """Have a model scored: the base with the directions of `train` and `rest`."""

        def work() -> Cell:
            check()
            with attached(self.base.model, train, rest) if train else nullcontext():
                return score_windows(self.base, heldout.windows, "now", self.domain, lambda _: check())

        return scorer(model_digest(train, rest), heldout, work)

    def _train_round(
        self,
        number: int,
        start: Mapping[str, Factors],
        rest: Mapping[str, Factors] | None,
        check: Check,
        visit: Visit | None,
    ) -> RoundResult:
        node, data = self.folder, self.data
        plan = plan_round(self.settings.train, number, self.settings.num_rounds, visit)

        def log(step: Step) -> None:
            values = {**vars(step), "num_tokens": plan.first_block * data.stream.sequence_length + step.num_tokens}
            append_line(node / "train.jsonl", values)

        states = RoundStates(node, data.key, self.settings.optimizer_across_rounds == "reset")
        part = states.part(number, start, rest, visit)
        result = train_round(
            self.base,
            start,
            data.stream,
            plan,
            self.settings.train,
            frozen=rest,
            state=states.first(number, part),
            on_step=log,
            on_checkpoint=lambda s: s.save(part, data.key),
            check=check,
        )
        about = {"round": number, "seconds": round(result.seconds, 4), "peak_memory_bytes": peak_memory_bytes()}
        append_line(node / "rounds.jsonl", about)
        states.finish(number, result.state)
        return result
