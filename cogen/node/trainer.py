"""What a domain does in a run: train rounds and score models."""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from cogen.adapter import Factors, factor_digest
from cogen.base import Base, load_base
from cogen.data import Window, heldout_windows
from cogen.data.pack import Stream
from cogen.evaluate.matrix import Cell
from cogen.evaluate.score import score_windows
from cogen.merge.factored import leading
from cogen.protocol.settings import WorkSettings
from cogen.runs import append_line
from cogen.train.fast.training import fast_training
from cogen.train.isolation import use_segment_attention
from cogen.train.loop import RoundResult, Step, train_round
from cogen.train.lora import attached, init_factors
from cogen.train.mixture import make_stream, read_mixture, state_key
from cogen.train.schedule import plan_round
from cogen.train.state import TrainState
from cogen.train.step import make_accelerator


@dataclass(frozen=True)
class DomainData:
    """One domain's packed training part, its held-out windows, and the key of its saved states."""

    stream: Stream
    windows: list[Window]
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
        data: the corpus. base: the base model. folder: for optimiser states and training logs.
    """

    def __init__(self, settings: WorkSettings, domain: str, data: str, base: str, folder: Path) -> None:
        settings.train.require_rounds()
        self.settings, self.domain = settings, domain
        self.corpus, self.base_name, self.folder = data, base, folder

    @property
    def base(self) -> Base:
        return _loaded(self.base_name, self.settings.precision)

    def train(self, round_number: int, current: Mapping[str, Factors]) -> TrainedRound:
        """Train round `round_number` from the global factors `current`.

        A domain with a lower rank trains the leading directions and holds the others frozen. A domain with a higher
        rank adds new directions, which change nothing at first.
        """
        began = time.monotonic()
        start, rest = split_rank(current, self.settings.rank, self.settings.train.seed + round_number)
        scored = self._round_windows()
        before = self._score(start, rest, scored)
        result = self._train_round(round_number, start, rest)
        after = self._score(result.factors, rest, scored)
        return TrainedRound(result.factors, result.num_tokens, before, after, time.monotonic() - began)

    def evaluate(self, models: Mapping[str, Mapping[str, Factors]]) -> list[Cell]:
        """Score the base and every model on the domain's held-out part."""
        windows = self.data.windows
        cells = [score_windows(self.base, windows, "base", self.domain)]
        for name, factors in models.items():
            with attached(self.base.model, factors):
                cells.append(score_windows(self.base, windows, name, self.domain))
        return cells

    @cached_property
    def data(self) -> DomainData:
        """The corpus, read, cleaned and packed on first use."""
        train, heldout, name = self.settings.train, self.settings.heldout, self.domain
        mixture = read_mixture(self.base, {name: self.corpus}, train, heldout.heldout_frac, self.settings.data)
        total = plan_round(train, 1, self.settings.num_rounds).total_blocks
        limits = (train.sequence_length, heldout.max_heldout_tokens)
        return DomainData(
            stream=make_stream(mixture, train, total),
            windows=heldout_windows(mixture.corpora[name].heldout, self.base.tokenizer, *limits),
            key=state_key(self.base, mixture, train),
        )

    def _round_windows(self) -> list[Window]:
        """The first of the held-out windows, up to `round_heldout_tokens`."""
        left, chosen = self.settings.heldout.round_heldout_tokens, []
        for window in self.data.windows:
            if left <= 0:
                break
            chosen.append(window)
            left -= len(window.tokens)
        return chosen

    def _score(
        self, train: Mapping[str, Factors], rest: Mapping[str, Factors] | None, windows: list[Window]
    ) -> float | None:
        if not windows:
            return None
        with attached(self.base.model, train, rest):
            return score_windows(self.base, windows, "now", self.domain).bits_per_byte

    def _train_round(
        self, number: int, start: Mapping[str, Factors], rest: Mapping[str, Factors] | None
    ) -> RoundResult:
        node, data = self.folder, self.data
        plan = plan_round(self.settings.train, number, self.settings.num_rounds)

        def log(step: Step) -> None:
            values = {**vars(step), "num_tokens": plan.first_block * data.stream.sequence_length + step.num_tokens}
            append_line(node / "train.jsonl", values)

        part = node / f"part-{number:04d}-{_digest(start, rest)}.safetensors"
        state = TrainState.load(part, data.key) if part.is_file() else self._state_before(number, data.key)
        result = train_round(
            self.base,
            start,
            data.stream,
            plan,
            self.settings.train,
            frozen=rest,
            state=state,
            on_step=log,
            on_checkpoint=lambda s: s.save(part, data.key),
        )
        about = {"round": number, "seconds": round(result.seconds, 4), "peak_memory_bytes": peak_memory_bytes()}
        append_line(node / "rounds.jsonl", about)
        result.state.save(node / f"state-{number:04d}.safetensors", data.key)
        # The newest state of an earlier round stays: this round starts from it when it is trained again.
        for path in (*_states(node, number - 1)[:-1], *node.glob("part-*.safetensors")):
            path.unlink()
        return result

    def _state_before(self, number: int, key: str) -> TrainState | None:
        """The newest state of an earlier round, so that a domain that missed a round keeps its Adam moments."""
        if self.settings.optimizer_across_rounds == "reset":
            return None
        found = _states(self.folder, number - 1)
        return TrainState.load(found[-1], key) if found else None


def preload(name: str, precision: str = "auto", cpu_kernels: str = "auto") -> None:
    """Load a base and prepare it as runs use it by default, so that the first round need not."""
    base = _loaded(name, precision)
    use_segment_attention(base.model)
    with attached(base.model, init_factors(base.info.modules, 1, 1.0, 0)), fast_training(base.model, cpu_kernels):
        make_accelerator()


@lru_cache(maxsize=1)
def _loaded(name: str, precision: str) -> Base:
    """One base a process, shared by all runs and domains."""
    return load_base(name, precision=precision)


def _digest(start: Mapping[str, Factors], rest: Mapping[str, Factors] | None) -> str:
    """Of the factors that a round starts from; a state of another start must not be continued."""
    return hashlib.sha256(f"{factor_digest(start)} {factor_digest(rest or {})}".encode()).hexdigest()[:16]


def _states(node: Path, last_round: int) -> list[Path]:
    """Saved states of rounds up to `last_round`, oldest first."""
    return [p for p in sorted(node.glob("state-*.safetensors")) if int(p.stem.removeprefix("state-")) <= last_round]


def split_rank(
    current: Mapping[str, Factors], rank: int, seed: int
) -> tuple[dict[str, Factors], dict[str, Factors] | None]:
    """The part of the global factors that a client of rank `rank` trains, and the part that it holds frozen.

    Global factors are sorted and balanced, so the first `rank` directions are the best approximation.
    """
    import torch

    start: dict[str, Factors] = {}
    rest: dict[str, Factors] = {}
    for name, factors in current.items():
        wanted = min(rank, *factors.shape)
        lead, tail = leading(factors, min(wanted, factors.rank))
        if tail is not None and bool(tail.b.any()):  # directions with B = 0 add nothing and can be dropped
            rest[name] = tail
        if wanted > lead.rank:
            fresh = init_factors({name: factors.shape}, wanted, factors.scaling, seed)[name]
            lead = Factors(
                a=torch.cat([lead.a, fresh.a[lead.rank :]]),
                b=torch.cat([lead.b, fresh.b[:, lead.rank :]], dim=1),
                scaling=factors.scaling,
            )
        start[name] = lead
    return start, rest or None


def peak_memory_bytes() -> int:
    """Largest resident set of this process so far [bytes]."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
