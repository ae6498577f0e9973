"""The process in which readers run whose libraries a file could crash, stall or fill the memory with.

It reads one file after another, as its standard input asks, and ends with it. It stops itself: by an alarm of the
system, which nothing in the process can hold up, and by a limit of the system on its memory.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from cogen.data import document
from cogen.data.document import Item, Note, Skipped, bad_data
from cogen.data.formats import read_file
from cogen.data.formats.compressed import MIB
from cogen.data.formats.messages import Unpacker, item_values, packed

OUT_OF_MEMORY = 77  # exit status
FULL = 0.85  # of the memory that a reader may take: errors are then of memory, whatever they say
BATCH_BYTES = 1 << 18  # of text in one message
BATCH_SECONDS = 0.05  # that an item waits for others


def main() -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the process that asked, which then ends this one
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints is no message
    first_mib, unpacker = 0, Unpacker()
    while piece := os.read(0, 1 << 16):
        for request in unpacker.add(piece):
            if not first_mib:
                first_mib = peak_mib()
                limit_memory(request["memory_mib"])
            request["full_mib"] = first_mib + FULL * request["memory_mib"]
            try:
                _answer(request, out)
            except MemoryError:
                os._exit(OUT_OF_MEMORY)
            except BrokenPipeError:
                os._exit(0)


def limit_memory(mib: int) -> None:
    """Let this process take `mib` MiB more than now, where the system can hold it to that."""
    with suppress(ValueError, OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        limit = pages * resource.getpagesize() + mib * MIB
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def peak_mib() -> int:
    """The most memory that this process had so far; 1 where the system does not say."""
    with suppress(ValueError, OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    return 1


def _answer(request: dict[str, Any], out: BinaryIO) -> None:
    """Send the items of one file in batches, and an empty batch at its end."""
    document.MAX_DOCUMENT_BYTES = request["max_document_bytes"]
    batch: list[Any] = []
    size, since = 0, time.monotonic()
    for item in _timed(_items(request), request["step_seconds"], request["file_seconds"]):
        if isinstance(item, Note) and not item.text and not item.num_bytes:
            continue  # it only says that the reader gets on
        batch.append(item_values(item))
        size += len(getattr(item, "text", "")) + 100
        if size >= BATCH_BYTES or time.monotonic() - since > BATCH_SECONDS:
            out.write(packed(batch))
            batch, size, since = [], 0, time.monotonic()
    if batch:
        out.write(packed(batch))
    out.write(packed([]))


def _items(request: dict[str, Any]) -> Iterator[Item]:
    """What is in the file; any error of its reader costs that file alone."""
    path = Path(request["path"])
    try:
        for item in read_file(path, request["name"]):
            if isinstance(item, Skipped) and _is_of_memory(item.error, request["full_mib"]):
                raise MemoryError
            yield item
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  a library's or our own mistake
        got = f"{type(error).__name__}: {error}"
        yield Skipped.of(bad_data(path, "a file that its reader can read", got, "Save it again, or remove it."), -1)


def _is_of_memory(error: BaseException | None, full_mib: float) -> bool:
    """Whether an error came of one of memory, which a reader or its library took for one of its file."""
    if error is not None and peak_mib() > full_mib:
        return True
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def _timed(items: Iterator[Item], step_seconds: float, file_seconds: float) -> Iterator[Item]:
    """`items`; the system ends this process if the next takes too long. Waiting for who reads them is free."""
    left = file_seconds
    while True:
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, min(step_seconds, max(left, 0.001)))
        try:
            item = next(items, None)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        left -= time.monotonic() - start
        if item is None:
            return
        yield item
