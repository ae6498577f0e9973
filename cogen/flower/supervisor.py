"""Runs one program, and ends it with all its descendants when the process that started the supervisor is gone.

Flower's SuperLink starts processes that start processes (Ray's leave the process group), and a command that is killed
cannot clean up. So the command starts `python -m cogen.flower.supervisor PROGRAM ARGS…` and keeps the supervisor's
stdin open. When that pipe closes, for whatever reason, the supervisor stops.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil

GRACE_SECONDS = 5.0
SERVER_APPS = ("flwr-simulation", "flwr-serverapp")


def end_tree(root: psutil.Process, known: set[psutil.Process]) -> None:
    """Stop `root`, its descendants, and `known` descendants whose parent has ended since.

    A ServerApp is killed first: it would take the end of the other processes for the loss of its clients, and complete
    a round without them.
    """
    everyone = {root, *known, *_descendants(root)}
    for process in everyone:
        if _runs_server_app(process):
            _signal(process, signal.SIGKILL)
    for process in everyone:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(list(everyone), timeout=GRACE_SECONDS)
    for process in {*alive, *(d for p in alive for d in _descendants(p))}:
        _signal(process, signal.SIGKILL)


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _runs_server_app(process: psutil.Process) -> bool:
    try:  # a fork of the preforked process has its parent's command line, but a name of its own
        names = (process.name(), *(Path(word).name for word in process.cmdline()[:5]))
        return any(name in SERVER_APPS for name in names)
    except psutil.Error:
        return False


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _wait_for_stop(stop: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    stop.set()


def main() -> int:
    """Run the program in argv until it ends or stdin is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # an ignored signal would be inherited by the program
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    root = psutil.Process(child.pid)
    stop = threading.Event()
    threading.Thread(target=_wait_for_stop, args=(stop,), daemon=True).start()
    known: set[psutil.Process] = set()
    while not stop.wait(0.5) and child.poll() is None:
        known |= set(_descendants(root))
    end_tree(root, known)
    return child.poll() or 0


if __name__ == "__main__":
    sys.exit(main())
