"""What keeps programs that pass messages on from growing with what they have passed.

By itself glibc keeps an arena for each of a dozen threads, each with what it once took for a message. The setting is not
for a trainer, which has its own (`cogen.train.memory`). A fixed MALLOC_MMAP_THRESHOLD_ as well gives every message back at
once, and made a round of 5 MB messages a third longer.

What a request has left in a cycle, a message of 5 MB with it, goes when Python collects its oldest generation. By itself
it does so after tens of thousands of objects, which are hundreds of requests.
"""

from __future__ import annotations

import gc
import threading
import time

MALLOC_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}
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
