"""One function over many batches on all cores, results in order, few of them in memory."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

from cogen.data.spool import SpoolBatch

# Below, the work is done before the first worker has imported its libraries.
LEAST_BYTES = 16 * 2**20
IN_FLIGHT_PER_WORKER = 3

Result = TypeVar("Result")


def each_batch(function: Callable[[SpoolBatch], Result], batches: Sequence[SpoolBatch]) -> Iterator[Result]:
    """`function` of every batch, in the batches' order; in this process where there is little to do.

    Args:
        function: a module's own, or a partial of one: it travels to other processes.
    """
    num_workers = min(num_cores(), len(batches))
    if num_workers == 1 or sum(b.end - b.start for b in batches) < LEAST_BYTES:
        yield from map(function, batches)
        return
    # Not forked: a parent that has used torch or a tokenizer has threads, whose locks a fork would inherit.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_begin) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(function, batch))
                if len(waiting) >= IN_FLIGHT_PER_WORKER * num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin() -> None:
    """One core a worker: the tokenizer would start a thread for every core in each."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
