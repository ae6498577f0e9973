"""Several processes that train one adapter, each on its share of the blocks of every step.

Each holds the whole model and all factors. Gradients are summed before they are clipped, so all processes take the
same step. `accelerate launch` or torchrun starts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from cogen.distributed import process_rank
from cogen.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from torch.nn import Parameter

Value = TypeVar("Value")
MAX_WAIT = timedelta(hours=12)  # the others wait while the first one prepares a corpus


@dataclass(frozen=True)
class ProcessGroup:
    """This process among `count`; a single process gets its own values back from every method."""

    index: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files, scores, and shows progress."""
        return self.index == 0

    def share(self, first: int, num_blocks: int) -> tuple[int, int]:
        """First block and number of blocks of this process; shares differ by at most one block and may be empty."""
        begin, end = (num_blocks * k // self.count for k in (self.index, self.index + 1))
        return first + begin, end - begin

    def sum(self, value: float) -> float:
        """The sum over all processes, in their order, so that all get the same bits."""
        values: list[float] = self._gathered(value)
        return sum(values)

    def sum_gradients(self, parameters: Sequence[Parameter]) -> None:
        """Replace each gradient by its sum over all processes; a missing gradient counts as zero."""
        if self.count == 1:
            return
        import torch

        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        torch.distributed.all_reduce(flat)
        parts = torch.split(flat, [p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def from_main(self, compute: Callable[[], Value]) -> Value:
        """Run `compute` in the main process only, and return its result in all of them."""
        value: Value = self._gathered(compute() if self.is_main else None)[0]
        return value

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the main process first, then in the others, which find its files in the cache."""
        if not self.is_main:
            self._gathered(None)
        try:
            yield
        finally:
            if self.is_main:
                self._gathered(None)

    def require_same(self, key: str) -> None:
        """Refuse processes that would train something else.

        Args:
            key: must be equal in all processes.
        Raises:
            TrainingError: it is not.
        """
        if len(set(self._gathered(key))) > 1:
            raise TrainingError(
                "cannot train in several processes",
                expected="the same base, data, settings and saved state in each",
                got="another in one of them",
                where=f"process {self.index} of {self.count}",
                fix="Use the same files and settings on all machines.",
            )

    def _gathered(self, value: Any) -> list[Any]:
        """The value of every process."""
        if self.count == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values


ALONE = ProcessGroup()


def join_process_group(batch_size: int) -> ProcessGroup:
    """Join the processes that were started with this one; later calls return the same group.

    Args:
        batch_size: blocks of a step; each process needs at least one.
    Raises:
        ConfigError: more processes than blocks of a step, or than accelerators on this machine.
    """
    import torch

    here = process_rank()
    if here.count == 1:
        return ALONE
    if here.count > batch_size:
        fix = "Raise train.batch_size, or start fewer processes."
        raise _too_many(f"{here.count} or more blocks of a step", f"train.batch_size = {batch_size}", fix)
    has_cuda = torch.cuda.is_available()
    if has_cuda and here.local_index >= torch.cuda.device_count():
        expected, got = f"{here.local_index + 1} GPUs or more on this machine", str(torch.cuda.device_count())
        raise _too_many(expected, got, "Start as many processes as there are GPUs.")
    if has_cuda:
        torch.cuda.set_device(here.local_index)
    if not torch.distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if has_cuda else "gloo"
        torch.distributed.init_process_group(backend, timeout=MAX_WAIT)
    return ProcessGroup(here.index, here.count)


def leave_process_group() -> None:
    """Leave the other processes at the end; a failed process does not call this, and the launcher ends them."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _too_many(expected: str, got: str, fix: str) -> ConfigError:
    where = f"{process_rank().count} processes"
    return ConfigError("cannot train in several processes", expected=expected, got=got, where=where, fix=fix)
