"""What a domain does when it is asked: describe itself, train a round, score models."""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.adapter import Factors, factor_digest
from cogen.base import Base, load_base
from cogen.config import Domain, RunConfig
from cogen.data import Window, heldout_windows
from cogen.data.pack import Stream
from cogen.evaluate.matrix import Cell
from cogen.evaluate.score import score_windows
from cogen.merge.factored import leading
from cogen.protocol.settings import Site, config_from
from cogen.runs import append_line
from cogen.train.attention import use_segment_attention
from cogen.train.fast.training import fast_training
from cogen.train.loop import RoundResult, Step, train_round
from cogen.train.lora import attached, init_factors
from cogen.train.mixture import make_stream, read_mixture, state_key
from cogen.train.schedule import plan_round
from cogen.train.state import TrainState
from cogen.train.step import make_accelerator

if TYPE_CHECKING:
    from torch import Tensor

WEIGHT_KEYS = ("a", "b")


@dataclass(frozen=True)
class DomainData:
    """One domain's packed training part, its held-out windows, and the key of its saved states."""

    stream: Stream
    windows: list[Window]
    key: str


@dataclass(frozen=True)
class RoundReply:
    """What leaves a domain after a round: trained factors and a few numbers."""

    factors: dict[str, Factors]
    num_tokens: int
    bits_per_byte_before: float | None
    bits_per_byte_after: float | None
    seconds: float


class Trainer:
    """One domain in one run: its settings, its data once they are needed, and the base, which a process has once.

    Asked twice for the same round with the same global factors, it gives the same reply: optimiser
    states are kept by round, and a round always starts from the one before it. A round cut off in the
    middle goes on from the state saved last, and ends with the same bits.

    Args:
        settings: what the server says of the run (`settings_for`).
        site: where this domain keeps its corpus and its states.
        base: where this machine finds the run's base; None is by the server's name of it.
    """

    def __init__(self, settings: str, site: Site, base: str | None = None) -> None:
        self.settings, self.site = settings, site
        self.config: RunConfig = config_from(settings, site)
        self.base_name = base or self.config.base.name
        self.config.require_rounds()
        self.domain: Domain = self.config.domains[0]

    @property
    def base(self) -> Base:
        return _loaded(self.base_name, self.config.base.precision)

    def train(self, round_number: int, current: Mapping[str, Factors]) -> RoundReply:
        """Train round `round_number` of the run from the global factors `current`.

        A domain whose rank is below the global one trains the leading directions and holds the rest
        frozen; one whose rank is above it adds fresh directions that change nothing yet.
        """
        began = time.monotonic()
        start, rest = split_rank(current, self.config.rank_of(self.domain), self.config.train.seed + round_number)
        scored = self._round_windows()
        before = self._score(start, rest, scored)
        result = self._train_round(round_number, start, rest)
        after = self._score(result.factors, rest, scored)
        return RoundReply(result.factors, result.num_tokens, before, after, time.monotonic() - began)

    def evaluate(self, models: Mapping[str, Mapping[str, Factors]]) -> list[Cell]:
        """Score the base and every model on the domain's held-out part."""
        windows = self.data.windows
        cells = [score_windows(self.base, windows, "base", self.domain.name)]
        for name, factors in models.items():
            with attached(self.base.model, factors):
                cells.append(score_windows(self.base, windows, name, self.domain.name))
        return cells

    @cached_property
    def data(self) -> DomainData:
        """Read, cleaned and packed on first use."""
        train, evaluate = self.config.train, self.config.evaluate
        name = self.domain.name
        mixture = read_mixture(self.base, {name: self.site.data}, train, evaluate.heldout_frac, self.config.data)
        total = plan_round(train, 1, self.config.federation.num_rounds).total_blocks
        limits = (train.sequence_length, evaluate.max_heldout_tokens)
        return DomainData(
            stream=make_stream(mixture, train, total),
            windows=heldout_windows(mixture.corpora[name].heldout, self.base.tokenizer, *limits),
            key=state_key(self.base, mixture, train),
        )

    def _round_windows(self) -> list[Window]:
        """The first of the held-out windows, up to `round_heldout_tokens`."""
        left, chosen = self.config.evaluate.round_heldout_tokens, []
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
            return score_windows(self.base, windows, "now", self.domain.name).bits_per_byte

    def _train_round(
        self, number: int, start: Mapping[str, Factors], rest: Mapping[str, Factors] | None
    ) -> RoundResult:
        node, data = self.site.folder, self.data
        plan = plan_round(self.config.train, number, self.config.federation.num_rounds)

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
            self.config.train,
            frozen=rest,
            state=state,
            on_step=log,
            on_checkpoint=lambda s: s.save(part, data.key),
        )
        about = {"round": number, "seconds": round(result.seconds, 4), "peak_memory_bytes": peak_memory_bytes()}
        append_line(node / "rounds.jsonl", about)
        result.state.save(node / f"state-{number:04d}.safetensors", data.key)
        # The newest state of an earlier round is what this one began from, if asked again.
        for path in (*_states(node, number - 1)[:-1], *node.glob("part-*.safetensors")):
            path.unlink()
        return result

    def _state_before(self, number: int, key: str) -> TrainState | None:
        """The newest state of an earlier round: a round that this domain missed does not cost it its moments."""
        if self.config.federation.optimizer_across_rounds == "reset":
            return None
        found = _states(self.site.folder, number - 1)
        return TrainState.load(found[-1], key) if found else None


def preload(name: str, precision: str = "auto", cpu_kernels: str = "auto") -> None:
    """Load a base and get it ready, as runs ask for it by default: the first round finds all that stays the same."""
    base = _loaded(name, precision)
    use_segment_attention(base.model)
    with attached(base.model, init_factors(base.info.modules, 1, 1.0, 0)), fast_training(base.model, cpu_kernels):
        make_accelerator()


@lru_cache(maxsize=1)
def _loaded(name: str, precision: str) -> Base:
    """One base a process, whatever runs and domains ask for it."""
    return load_base(name, precision=precision)


def _digest(start: Mapping[str, Factors], rest: Mapping[str, Factors] | None) -> str:
    """Of what a round starts from: a part of another start must not be gone on with."""
    return hashlib.sha256(f"{factor_digest(start)} {factor_digest(rest or {})}".encode()).hexdigest()[:16]


def _states(node: Path, last_round: int) -> list[Path]:
    """Saved states of rounds up to `last_round`, oldest first."""
    return [p for p in sorted(node.glob("state-*.safetensors")) if int(p.stem.removeprefix("state-")) <= last_round]


def split_rank(
    current: Mapping[str, Factors], rank: int, seed: int
) -> tuple[dict[str, Factors], dict[str, Factors] | None]:
    """What a client of rank `rank` trains of the global factors, and what it holds frozen.

    Global factors come sorted and balanced, so their first directions are the best cut.
    """
    import torch

    start: dict[str, Factors] = {}
    rest: dict[str, Factors] = {}
    for name, factors in current.items():
        wanted = min(rank, *factors.shape)
        lead, tail = leading(factors, min(wanted, factors.rank))
        if tail is not None and bool(tail.b.any()):  # fresh directions add nothing: no need to carry them along
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


def to_arrays(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """Factors under the names that travel: `<module>.a`, `<module>.b`."""
    return {f"{n}.{k}": getattr(f, k).contiguous() for n, f in factors.items() for k in WEIGHT_KEYS}


def from_arrays(tensors: Mapping[str, Tensor], scaling: float) -> dict[str, Factors]:
    """The inverse of `to_arrays`."""
    names = sorted({key.rpartition(".")[0] for key in tensors})
    return {n: Factors(tensors[f"{n}.a"], tensors[f"{n}.b"], scaling) for n in names}


def peak_memory_bytes() -> int:
    """Largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
