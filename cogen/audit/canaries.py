"""Canaries: random sentences, planted in the text that a domain's adapter is trained on.

The planted text is never on a disk: a stream of blocks overwrites a stretch of a piece of a document in memory. So every
block keeps its length, the cuts stay where they were, and how often a canary is trained is exact, whatever the epochs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cogen.audit.targets import Training
from cogen.audit.windows import block_owners
from cogen.data.pack import PLAIN, Stream
from cogen.errors import ConfigError
from cogen.evaluate.continuation import Continuation
from cogen.train.mixture import make_stream
from cogen.train.schedule import plan_round

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cogen.base import Base

REPEATS = (1, 4, 16)
NUM_ALTERNATIVES = 255
NUM_UNPLANTED = 200
MAX_PLANTED_FRAC = 0.2
SECRET_WORDS = 7
WORDS = (
    "amber anchor apple arrow autumn badge basket beacon berry bottle branch bridge bronze button candle canyon carbon "
    "castle cedar cherry circle clover coffee copper coral cotton desert diamond dragon eagle ember engine falcon feather "
    "forest garden ginger glacier hammer harbor hazel island ivory jacket jungle ladder lantern lemon marble meadow mirror "
    "needle orange paper pepper pillow rocket saddle silver sparrow thunder tunnel velvet window"
)
SYLLABLES = "ba be di do fa fu ga ki la lo ma mi na nu pa ra ri sa so ta ti va vo zu"


@dataclass(frozen=True)
class Canary:
    """A sentence in tokens, and how often it is planted."""

    text: Continuation
    repeats: int

    @property
    def tokens(self) -> NDArray[np.int32]:
        """The whole sentence."""
        return np.concatenate((self.text.context, self.text.tokens))


@dataclass(frozen=True)
class CanarySet:
    """Canaries to plant, for each its alternatives with other secrets, and sentences that are never planted."""

    planted: tuple[Canary, ...]
    alternatives: tuple[tuple[Continuation, ...], ...]
    unplanted: tuple[Continuation, ...]

    @property
    def num_scored_tokens(self) -> int:
        """Tokens that are scored: canaries with base and adapter, alternatives with the adapter."""
        twice = [*(canary.text for canary in self.planted), *self.unplanted]
        return sum(2 * t.num_tokens for t in twice) + sum(t.num_tokens for some in self.alternatives for t in some)


class PlantedStream:
    """The blocks of `stream`, in which canaries overwrite the text at some places; nothing moves.

    Args:
        plants: block to (piece, first token, canary's tokens).
    """

    def __init__(self, stream: Stream, plants: Mapping[int, Sequence[tuple[int, int, NDArray[np.int32]]]]) -> None:
        self.stream, self.plants, self.sequence_length = stream, plants, stream.sequence_length

    def segments(self, index: int) -> list[NDArray[np.int32]]:
        """The pieces of documents in block `index`."""
        pieces = self.stream.segments(index)
        for number, first, tokens in self.plants.get(index, ()):
            piece = pieces[number].copy()
            piece[first : first + len(tokens)] = tokens
            pieces[number] = piece
        return pieces


def make_canaries(base: Base, num_canaries: int, seed: int, num_alternatives: int = NUM_ALTERNATIVES) -> CanarySet:
    """Draw canaries, about a third for each of `REPEATS`."""
    draw = np.random.default_rng([seed, num_canaries])
    names = [_name(draw) for _ in range(num_canaries)]
    planted = tuple(Canary(_sentence(base, n, draw), REPEATS[i % len(REPEATS)]) for i, n in enumerate(names))
    alternatives = tuple(tuple(_sentence(base, n, draw) for _ in range(num_alternatives)) for n in names)
    return CanarySet(planted, alternatives, tuple(_sentence(base, _name(draw), draw) for _ in range(NUM_UNPLANTED)))


def plant(training: Training, canaries: Sequence[Canary], seed: int) -> PlantedStream:
    """The training text with every canary at `repeats` random places of the domain's own blocks.

    Raises:
        ConfigError: they would take more than a fifth of the text.
    """
    settings = training.settings
    plan = plan_round(settings, 1, 1)
    stream = make_stream(training.mixture, settings, plan.total_blocks)
    own = len(training.mixture.corpora)
    owners = block_owners(settings, own, range(plan.num_blocks), plan.total_blocks)
    length = max(len(c.tokens) for c in canaries)
    slots = [
        (block, number, first)
        for block in range(plan.num_blocks)
        if owners[block][0] < own
        for number, piece in enumerate(stream.segments(block))
        for first in range(1, len(piece) - length, length)  # neither BOS nor EOS
    ]
    wanted = [c.tokens for c in canaries for _ in range(c.repeats)]
    most = int(min(len(slots), MAX_PLANTED_FRAC * plan.num_blocks * settings.sequence_length / length))
    if len(wanted) > most:
        fix = "Lower --canaries, or audit an adapter that was trained on more text."
        got, expected = f"{len(wanted)} sentences", f"at most {most}, a fifth of the text that is trained"
        raise ConfigError("cannot plant canaries", expected=expected, got=got, where="--canaries", fix=fix)
    plants: dict[int, list[tuple[int, int, NDArray[np.int32]]]] = {}
    chosen = np.random.default_rng([seed, 1]).permutation(len(slots))
    for i, tokens in zip(chosen[: len(wanted)], wanted, strict=True):
        block, number, first = slots[i]
        plants.setdefault(block, []).append((number, first, tokens))
    return PlantedStream(stream, plants)


def _name(draw: np.random.Generator) -> str:
    first, last = ("".join(draw.choice(SYLLABLES.split(), size=n)) for n in (2, 3))
    return f"{first.title()} {last.title()}"


def _sentence(base: Base, name: str, draw: np.random.Generator) -> Continuation:
    """The access code of NAME is, and seven random words."""
    prefix = f" The access code of {name} is"
    secret = " ".join(draw.choice(WORDS.split(), size=SECRET_WORDS))
    whole = base.tokenizer(f"{prefix} {secret}.", **PLAIN)["input_ids"]
    cut = len(base.tokenizer(prefix, **PLAIN)["input_ids"])
    return Continuation(np.array(whole[:cut], dtype=np.int32), np.array(whole[cut:], dtype=np.int32))
