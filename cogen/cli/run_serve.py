"""The work of `cogen serve`, imported only when it runs: signals, and lines on stderr."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from cogen.deploy.folder import FederationFolder
from cogen.deploy.serve import Door, serve


def run_serve(config: str, folder: Path, door: Door) -> None:
    """Serve until Ctrl-C or SIGTERM, either of which ends it in order."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    serve(config, FederationFolder(folder), door, _say, stop)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
