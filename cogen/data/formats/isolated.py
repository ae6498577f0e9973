"""Reading in a process of its own, so that no file can crash, stall or fill up the one that reads a corpus."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from cogen.data import document
from cogen.data.document import Document, Item, Skipped, bad_data
from cogen.data.formats import bytes_of, read_file, sized, split_suffix
from cogen.data.formats.compressed import FREE_BYTES, MAX_RATIO, MIB, UNPACK_IT, num_bytes, opened
from cogen.data.formats.messages import Unpacker, item_of, packed
from cogen.data.formats.worker import OUT_OF_MEMORY
from cogen.errors import DataError

ISOLATED = (".html", ".htm", ".pdf", ".docx", ".parquet")
"""Formats that other people's libraries unpack and parse. The lines of the rest are read here, one at a time."""
WORKER = "cogen.data.formats.worker"
WATCH_SECONDS = 0.1  # between looks at the process's memory
END_SECONDS = 5  # for a process that has closed its output to end
# One thread and the system's own allocator: others reserve memory by the gigabyte, which counts against the limit.
ENVIRONMENT = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "ARROW_IO_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Limits:
    """What reading one file may take.

    Args:
        memory_mib: MiB above those of an idle reader's process; at most half of the machine's.
        step_seconds: without a row or page.
        seconds_per_mib: more of them, for each MiB of the file on disk.
        num_steps: all of a file may take so many times as long.
    """

    memory_mib: int = 1500
    step_seconds: float = 120
    seconds_per_mib: float = 10
    num_steps: int = 5


class ReaderProcess:
    """Reads files, those of the formats in ISOLATED in a process that starts with the first and ends with the block.

    A process that dies, or is stopped since it takes more than `limits` allow, costs the file the rest of it.
    """

    def __init__(self, limits: Limits = Limits(), worker: str = WORKER) -> None:
        self._limits, self._worker = limits, worker
        self._process: subprocess.Popen[bytes] | None = None
        self._first_rss = 0
        self._unpacker = Unpacker()

    def __enter__(self) -> ReaderProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def read(self, path: Path, name: str) -> Iterator[Item]:
        """What `read_file` gives, in the same order; and whatever becomes of its reader, all bytes of the file."""
        if split_suffix(path.name)[1] not in ISOLATED:
            yield from read_file(path, name)
            return
        size, taken, num_characters, is_whole = 0, 0, 0, False
        try:
            with opened(path, "") as file:  # whether it may be read is decided here
                size = num_bytes(file)
            for item in self._ask(path, name, size):
                found = sized(item, max(0, size - taken))
                num_characters += len(item.text) if isinstance(item, Document) else 0
                if num_characters > FREE_BYTES and num_characters > MAX_RATIO * size:
                    self._end()
                    raise _too_much_text(path, num_characters)
                taken += bytes_of(found)
                yield found
            is_whole = True
        except DataError as error:
            is_whole = True
            yield Skipped.of(error, max(0, size - taken))
        finally:
            if not is_whole:  # the consumer has left: what is still to come would be taken for the next file's
                self._end()

    def _ask(self, path: Path, name: str, size: int) -> Iterator[Item]:
        seconds = self._limits.step_seconds + self._limits.seconds_per_mib * size / MIB
        memory_mib = _memory_mib(self._limits.memory_mib)
        request = {
            "path": str(path),
            "name": name,
            "max_document_bytes": document.MAX_DOCUMENT_BYTES,
            "memory_mib": memory_mib,
            "step_seconds": seconds,
            "file_seconds": seconds * self._limits.num_steps,
        }
        try:
            process = self._process if self._is_alive() else self._start()
            assert process is not None and process.stdin is not None
            process.stdin.write(packed(request))
            process.stdin.flush()
            yield from map(item_of, self._answers(process, memory_mib))
            return
        except _TooMuchMemoryError:
            status: int | str = OUT_OF_MEMORY
            self._end()
        except (OSError, EOFError, ValueError) as error:
            status = self._status() or str(error)
            self._end()
        raise _error(path, status, request)

    def _is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the process with the same modules as this one, wherever they were found, or blocked."""
        self._end()
        blocked = [name for name, module in sys.modules.items() if module is None]
        program = (
            f"import sys; sys.path[:] = {json.dumps(sys.path)}; sys.modules.update(dict.fromkeys({json.dumps(blocked)}));"
            f"from {self._worker} import main; main()"
        )
        self._unpacker, self._first_rss = Unpacker(), 0
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-X", f"utf8={sys.flags.utf8_mode}", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **ENVIRONMENT},
        )
        return self._process

    def _answers(self, process: subprocess.Popen[bytes], memory_mib: int) -> Iterator[Any]:
        """The values of all items of one file."""
        assert process.stdout is not None
        watched = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                is_ready = selector.select(WATCH_SECONDS)
                if time.monotonic() - watched >= WATCH_SECONDS:
                    self._watch(process, memory_mib)
                    watched = time.monotonic()
                if not is_ready:
                    continue
                piece = os.read(process.stdout.fileno(), MIB)
                if not piece:
                    raise EOFError("it ended")
                for batch in self._unpacker.add(piece):
                    if not batch:
                        return
                    yield from batch

    def _watch(self, process: subprocess.Popen[bytes], memory_mib: int) -> None:
        """Raise if the process is too large, for systems that do not hold it to its limit."""
        import psutil

        try:
            rss = psutil.Process(process.pid).memory_info().rss
        except psutil.Error:
            return  # it is dead, as its pipe will say
        self._first_rss = self._first_rss or rss
        if rss > self._first_rss + memory_mib * MIB:
            raise _TooMuchMemoryError

    def _status(self) -> int | None:
        """The exit status of a process that is ending; negative for a signal."""
        try:
            return self._process.wait(END_SECONDS) if self._process else None
        except subprocess.TimeoutExpired:
            return None

    def _end(self) -> None:
        """End the process, if there is one; to a forked copy of this object it is nobody's child, and stays."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()


class _TooMuchMemoryError(Exception):
    """The process has more memory than it may."""


def _memory_mib(limit: int) -> int:
    """At most half of the machine's memory."""
    import psutil

    return min(limit, int(psutil.virtual_memory().total) // MIB // 2)


def _too_much_text(path: Path, num_characters: int) -> DataError:
    """The error for a small file that holds one text many times over."""
    got = f"{num_characters / MIB:,.0f} million so far"
    return bad_data(path, f"a file with at most {MAX_RATIO} characters of text for each of its bytes", got, UNPACK_IT)


def _error(path: Path, status: int | str, request: dict[str, Any]) -> DataError:
    """The error for a file whose reader's process ended with `status`, or failed in the words that `status` says."""
    expected, got = "a file that its reader can read", f"a reader that failed ({status})"
    if status == OUT_OF_MEMORY:
        expected, got = f"a file whose reader takes at most {request['memory_mib']:,} MiB of memory", "more"
    elif status == -signal.SIGALRM:
        step, total = request["step_seconds"], request["file_seconds"]
        expected, got = f"a file whose reader takes at most {step:.0f} s for a part and {total:.0f} s in all", "more"
    elif isinstance(status, int):
        got = f"a reader that crashed ({signal.Signals(-status).name if status < 0 else f'exit status {status}'})"
    return bad_data(path, expected, got, "Save it again, divide it, or remove it.")
