"""Running work in a thread, and waiting until a condition is true."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


def in_background(work: Callable[[], Any]) -> threading.Thread:
    """Run `work` in a thread of its own."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether `true` returns True within `seconds`."""
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
