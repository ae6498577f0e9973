"""Pieces of work side by side, one thread each, which small matrices use better than several threads in each product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(run: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
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
        with ThreadPoolExecutor(num_workers, thread_name_prefix="cogen") as pool:
            yield from pool.map(attempt, items)
    finally:
        torch.set_num_threads(num_threads)
