"""The optimiser states that a domain keeps in a run, by round.

`state-0002.safetensors` is that of the end of round 2, from which round 3 starts. `part-0003-<digest>.safetensors` is that of
round 3 in the making, for one start and one kind of data and settings.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cogen.adapter import Factors
from cogen.errors import AlteredFile
from cogen.node.round_start import start_digest
from cogen.train.schedule import Visit
from cogen.train.state import TrainState


@dataclass(frozen=True)
class RoundStates:
    """The states of one domain in one run.

    Args:
        folder: where they lie.
        key: of the data and settings that they belong to, see `state_key`.
        are_reset: whether each round begins without the moments of the one before it.
    """

    folder: Path
    key: str
    are_reset: bool

    def part(
        self,
        number: int,
        start: Mapping[str, Factors],
        rest: Mapping[str, Factors] | None,
        visit: Visit | None = None,
    ) -> Path:
        """The file of round `number` in the making from these factors, in a relay at this point of the learning rates."""
        key = self.key if visit is None else f"{self.key} {visit.model_dump_json()}"
        return self.folder / f"part-{number:04d}-{start_digest(start, rest, key)}.safetensors"

    def first(self, number: int, part: Path) -> TrainState | None:
        """The state from which round `number` goes on: in its middle, or from the round before it.

        A round whose saved middle was altered is trained again from its start, with the same result.

        Raises:
            RunError: the state of the round before it was altered: another one would give another result.
        """
        if part.is_file():
            try:
                return TrainState.load(part, self.key)
            except AlteredFile as error:
                print(f"round {number} starts again: {error}", file=sys.stderr, flush=True)
                part.unlink()
        found = [] if self.are_reset else self._before(number)
        # The newest state of an earlier round, so that a domain that missed a round keeps its Adam moments.
        return TrainState.load(found[-1], self.key) if found else None

    def finish(self, number: int, state: TrainState) -> None:
        """Save the state of the end of a round, and remove those that no round starts from."""
        state.save(self.folder / f"state-{number:04d}.safetensors", self.key)
        # The newest state of an earlier round stays: this round starts from it when it is trained again.
        for path in (*self._before(number)[:-1], *self.folder.glob("part-*.safetensors")):
            path.unlink()

    def _before(self, number: int) -> list[Path]:
        """Saved states of earlier rounds, oldest first."""
        paths = sorted(self.folder.glob("state-*.safetensors"))
        return [p for p in paths if int(p.stem.removeprefix("state-")) < number]
