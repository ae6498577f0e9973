"""A process that has loaded what is slow to load, and forks for each connection to its Unix socket.

The fork shares the parent's memory. It serves one connection, and its life ends with it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from cogen.errors import log_error
from cogen.node.channel import is_same_user


def serve_forks(listener: socket.socket, program: Callable[[socket.socket], object]) -> NoReturn:
    """Fork for each connection, forever; nobody waits for the forks' exit codes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        fork_for_next(listener, program)


def fork_for_next(listener: socket.socket, program: Callable[[socket.socket], object]) -> None:
    """Accept one connection and run `program` with it in a fork; a connection of another user is closed."""
    connection, _ = listener.accept()
    with connection:
        if not is_same_user(connection) or os.fork():
            return
        code = 1
        try:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            code = exit_code_of(lambda: program(connection))
        finally:
            os._exit(code)  # nothing of the parent's may run in the fork


def exit_code_of(program: Callable[[], object]) -> int:
    """Run a program and return its exit code, as Python itself would end with it; its output is flushed."""
    code = 0
    try:
        program()
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - whatever it is, it ends this fork and not its parent
        log_error()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    return code & 0xFF
