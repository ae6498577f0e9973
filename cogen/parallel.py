"""Pieces of work side by side, one thread each, which small matrices use better than several threads in each product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Threads that stay for as long as the block runs: what the allocator gives to one, it finds there again."""

    def __init__(self) -> None:
        self._pools: dict[int, ThreadPoolExecutor] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools.values():
            pool.shutdown()
        self._pools.clear()

    def map(self, run: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """run(item) of every item in order, as many at a time as torch has threads; each computes with one.

        Results are therefore the same to the bit whatever the number of threads. Only where there are fewer
        items than half the threads does each compute with several. The number of threads is the process's own
        and is put back at the end, so nothing else should compute meanwhile.

        Raises: what `run` raises, for the first that does; once one has, no other is begun.
        """
        import torch

        failures: list[BaseException] = []

        def attempt(item: Item) -> Result:
            if failures:
                raise failures[0]
            try:
                return run(item)
            except BaseException as error:
                failures.append(error)
                raise

        num_threads = torch.get_num_threads()
        num_workers = min(num_threads, max(len(items), 1))
        torch.set_num_threads(num_threads // num_workers)
        try:
            yield from self._pool(num_workers).map(attempt, items)
        finally:
            torch.set_num_threads(num_threads)

    def _pool(self, num_workers: int) -> ThreadPoolExecutor:
        """Of so many threads; a thread keeps the number of its own threads, which goes with theirs."""
        if num_workers not in self._pools:
            self._pools[num_workers] = ThreadPoolExecutor(num_workers, thread_name_prefix="cogen")
        return self._pools[num_workers]


def in_parallel(run: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """`Workers.map` with threads of its own."""
    with Workers() as workers:
        yield from workers.map(run, items)
