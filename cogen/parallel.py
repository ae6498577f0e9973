"""Work on many items in parallel, one thread for each: for small matrices this is faster than threads in each product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Threads that live while the block runs, so that each finds its freed memory again."""

    def __init__(self) -> None:
        self._pools: dict[int, ThreadPoolExecutor] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools.values():
            pool.shutdown()
        self._pools.clear()

    def map(self, run: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield run(item) for every item in order; as many run at a time as torch has threads, each with one thread.

        Results therefore have the same bits for any number of threads. Only with fewer items than half the threads
        does each item get several. The number of threads is a setting of the process, restored at the end, so
        nothing else should compute meanwhile.

        Raises: the first error that `run` raises; then no further item is started.
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
        """The pool with this many threads; each size has its own, since a thread keeps its setting of torch threads."""
        if num_workers not in self._pools:
            self._pools[num_workers] = ThreadPoolExecutor(num_workers, thread_name_prefix="cogen")
        return self._pools[num_workers]


def in_parallel(run: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """`Workers.map` with threads for this call only."""
    with Workers() as workers:
        yield from workers.map(run, items)
