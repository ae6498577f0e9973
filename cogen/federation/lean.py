"""What keeps programs that pass messages on from growing with what they have passed.

Settings for glibc: by its own it keeps an arena for each thread, and in them blocks of the size of a message once the
first was freed. They are not for a trainer, which wants its pages kept (`cogen.train.memory`).

What a request has left in a cycle, a message of 5 MB with it, goes when Python collects its oldest generation. By itself
it does so after tens of thousands of objects, which are hundreds of requests.
"""

from __future__ import annotations

import gc
import threading
import time

LEAN_MEMORY = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "524288", "MALLOC_TRIM_THRESHOLD_": "4194304"}
COLLECT_SECONDS = 4.0


def collect_often(seconds: float = COLLECT_SECONDS) -> None:
    """Freeze all that is there, and collect what comes then every few seconds, which takes some milliseconds."""
    gc.collect()
    gc.freeze()

    def collect() -> None:
        while True:
            time.sleep(seconds)
            gc.collect()

    threading.Thread(target=collect, name="collector", daemon=True).start()
