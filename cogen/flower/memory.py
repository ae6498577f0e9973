"""Keeps the programs that pass messages on from growing with every message.

By itself glibc keeps an arena for each of a dozen threads, and each arena keeps the memory of its largest message.
MALLOC_ARENA_MAX limits them. It is not set for a trainer, which has its own rule (`cogen.train.memory`). A fixed
MALLOC_MMAP_THRESHOLD_ would return the memory of every message at once, but made a round of 5 MB messages 30 % longer.

A request leaves a reference cycle, which holds its message of 5 MB until Python collects its oldest generation. By
itself Python does so after tens of thousands of objects, that is after hundreds of requests.
"""

from __future__ import annotations

import gc
import threading
import time

MALLOC_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}
COLLECT_SECONDS = 4.0


def collect_often(seconds: float = COLLECT_SECONDS) -> None:
    """Freeze all present objects, and collect newer ones every few seconds, which takes some milliseconds."""
    gc.collect()
    gc.freeze()

    def collect() -> None:
        while True:
            time.sleep(seconds)
            gc.collect()

    threading.Thread(target=collect, name="collector", daemon=True).start()
