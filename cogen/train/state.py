"""The training state that a client saves to continue bit for bit, and early stopping."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogen.adapter import Factors
from cogen.config import Train
from cogen.errors import AlteredFile, RunError
from cogen.files import write_file

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2


@dataclass(frozen=True)
class Best:
    """The factors that scored best so far, and how many evaluations have not beaten them since."""

    factors: Mapping[str, Factors]
    bits_per_byte: float
    step: int
    num_worse: int = 0


def is_due(num_done: int, num_steps: int, settings: Train) -> bool:
    """Whether to score the model after `num_done` of `num_steps` steps: at every interval and at the end."""
    return num_done % settings.early_stop_every == 0 or num_done == num_steps


def better(
    best: Best | None, bits_per_byte: float, num_done: int, factors: Callable[[], Mapping[str, Factors]]
) -> Best:
    """The new best, or the old one with one more evaluation that did not beat it."""
    if best is None or bits_per_byte < best.bits_per_byte:
        return Best(factors(), bits_per_byte, num_done)
    return Best(best.factors, best.bits_per_byte, best.step, best.num_worse + 1)


def is_over(best: Best | None, settings: Train) -> bool:
    """Whether patience has run out."""
    return best is not None and best.num_worse >= settings.early_stop_patience


@dataclass(frozen=True)
class TrainState:
    """Adam's moments and the position in the current round.

    Args:
        moments: Adam's `exp_avg`, `exp_avg_sq` and `step` by parameter.
        num_steps_done: steps of the current round.
        sum_loss_nats: summed over these steps.
        factors: the factors of an interrupted round; None between rounds, which start from the server's factors.
        best: the best factors so far; None if training cannot stop early.
    """

    moments: Mapping[str, Tensor]
    num_steps_done: int = 0
    sum_loss_nats: float = 0.0
    factors: Mapping[str, Factors] | None = None
    best: Best | None = None

    def save(self, path: Path, key: str) -> None:
        """Write one safetensors file; `load` checks that `key` is the same (see `state_key`), and that nothing was altered."""
        from safetensors.torch import save

        tensors = {f"moment:{k}": v.contiguous() for k, v in self.moments.items()}
        tensors |= _flat(self.factors or {}, "")
        about: dict[str, Any] = {
            "format": FORMAT,
            "key": key,
            "num_steps_done": self.num_steps_done,
            "sum_loss_nats": self.sum_loss_nats,
            "scalings": {name: f.scaling for name, f in (self.factors or {}).items()},
        }
        if self.best is not None:
            tensors |= _flat(self.best.factors, "best:")
            about["best"] = {k: v for k, v in vars(self.best).items() if k != "factors"}
        about["sha256"] = _sha256(path.name, about, tensors)
        write_file(path, save(tensors, metadata={"cogen": json.dumps(about)}))

    @classmethod
    def load(cls, path: Path, key: str) -> TrainState:
        """Read a saved state.

        Raises:
            AlteredFile: it is not as it was written, or that of another name.
            RunError: not a state file, or it belongs to other data or settings.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as opened:
                about = json.loads((opened.metadata() or {})["cogen"])
                tensors = {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118
            if not isinstance(about, dict) or about["format"] != FORMAT:
                raise _unusable(path, f"a training state of format {FORMAT}", "another")
            if about.pop("sha256") != _sha256(path.name, about, tensors):
                raise _altered(path, "one with another content")
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise _altered(path, str(error)) from None
        if about.get("key") != key:
            raise _unusable(path, "the state of this data and these settings", "one of other data or settings")
        factors = _factors(tensors, about["scalings"], "")
        moments = {k.removeprefix("moment:"): v for k, v in tensors.items() if k.startswith("moment:")}
        found = about.get("best")
        best = None if found is None else Best(_factors(tensors, about["scalings"], "best:"), **found)
        return cls(moments, about["num_steps_done"], about["sum_loss_nats"], factors or None, best)


def _flat(factors: Mapping[str, Factors], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{side}:{name}": getattr(f, side) for name, f in factors.items() for side in "ab"}


def _factors(tensors: Mapping[str, Tensor], scalings: Mapping[str, float], prefix: str) -> dict[str, Factors]:
    return {n: Factors(tensors[f"{prefix}a:{n}"], tensors[f"{prefix}b:{n}"], s) for n, s in scalings.items()}


def _sha256(name: str, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Of the file's name, so that states are not swapped, and of all that is in the file."""
    import torch

    digest = hashlib.sha256(f"{name} {json.dumps(about, sort_keys=True)}".encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"\n{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _altered(path: Path, got: str) -> AlteredFile:
    return AlteredFile(
        "cannot resume",
        expected="a saved training state as it was written",
        got=got,
        where=str(path),
        fix="Restore the file, or remove it: training then starts without it.",
    )


def _unusable(path: Path, expected: str, got: str) -> RunError:
    return RunError(
        "cannot resume",
        expected=expected,
        got=got,
        where=str(path),
        fix="Start without --resume, or restore the data and settings.",
    )
