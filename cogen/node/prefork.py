"""A trainer that is ready before it is needed: `python -m cogen.node.prefork SOCKET NUM_THREADS BASE ...`.

It imports what training needs and loads the base model, once. Every connection gets a fork of it, which shares the
memory of the base with the others. `cogen simulate` starts it while Flower and Ray start.

A fork does not inherit the threads of a pool, so this process computes with one thread until it forks. A fork cannot use
its parent's GPU either. There, and where forking is not safe (`can_fork`), every trainer is a new process.
"""

from __future__ import annotations

import socket
import sys
from functools import partial
from pathlib import Path

from cogen.errors import log_error
from cogen.node.channel import listen_at
from cogen.node.fork_server import serve_forks
from cogen.node.resident import end_with, serve
from cogen.train.memory import tune_allocator


def can_fork() -> bool:
    """Linux without a GPU."""
    return sys.platform.startswith("linux") and not any((*Path("/dev").glob("nvidia[0-9]*"), *Path("/dev").glob("kfd")))


def prefork_argv(path: Path, num_threads: int, base: str, precision: str, cpu_kernels: str) -> list[str]:
    """The program's command line.

    Args:
        num_threads: that each trainer computes with.
        base: by name, and how the run's settings want it loaded.
    """
    return [sys.executable, "-P", "-m", "cogen.node.prefork", str(path), str(num_threads), base, precision, cpu_kernels]


def main() -> None:
    """Listen, load the base, fork for each connection."""
    path, num_threads, *base = sys.argv[1:]
    tune_allocator()
    with listen_at(Path(path)) as listener:  # a client that connects early waits
        _load_base(*base)
        serve_forks(listener, partial(_serve, int(num_threads)))


def _load_base(*base: str) -> None:
    import torch

    torch.set_num_threads(1)
    try:
        from cogen.node.loaded_base import preload

        preload(*base)
    except Exception:  # noqa: BLE001 - a request for work tries again and gets the reason
        log_error()


def _serve(num_threads: int, connection: socket.socket) -> None:
    """Answer one client, in a fork."""
    import torch

    torch.set_num_threads(num_threads)
    end_with(connection)
    serve(connection)


if __name__ == "__main__":
    main()
