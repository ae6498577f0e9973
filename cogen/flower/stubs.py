"""Stubs: small programs in place of Flower's own, which ask a preforked process to do the work.

Importing Flower takes 1.5 s of CPU; Python alone starts in 0.02 s. A stub sends its arguments, and where wanted its
stdout and stderr, to a Unix socket, and ends with the exit code that comes back. If nobody listens there, it becomes
the slow program.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from cogen.files import write_file
from cogen.flower.patches.local import TOKEN_OPTION, TOKEN_VARIABLE
from cogen.node.fork_server import exit_code_of

ARGUMENT_BYTES = 65_536
# Imports only from the standard library. The socket's path may be too long for an address: it is reached by its name.
PROGRAM = """\
import json, os, socket, sys
arguments = sys.argv[1:]
if token := os.environ.get({variable!r}):
    arguments += [{option!r}, token]
try:
    here = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))
    os.chdir({folder!r})
    preforked = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        preforked.connect({name!r})
    finally:
        os.fchdir(here)
    socket.send_fds(preforked, [json.dumps(arguments).encode() + b"\\n"], {streams!r})
except OSError:
    os.execv({slow!r}[0], [*{slow!r}, *sys.argv[1:]])
sys.exit((preforked.recv(1) or b"\\1")[0])
"""


def write_stub(program: Path, listens: Path, slow: Sequence[str], *, with_output: bool) -> None:
    """Write the stub `program`, executable by this user alone.

    Args:
        listens: the socket of the preforked process.
        slow: the command that does the same without a preforked process.
        with_output: the work's output goes where the stub's would; otherwise to the preforked process's log.
    """
    streams = [1, 2] if with_output else []
    text = stub_text(listens, streams, slow)
    script = program.with_name(f"{program.name}.py")
    write_file(script, text.encode(), private=True)
    write_script(program, [sys.executable, "-IS", str(script)])


def stub_text(listens: Path, streams: Sequence[int], slow: Sequence[str]) -> str:
    """The Python program of a stub."""
    return PROGRAM.format(
        folder=str(listens.parent),
        name=listens.name,
        streams=list(streams),
        slow=list(slow),
        variable=TOKEN_VARIABLE,
        option=TOKEN_OPTION,
    )


def write_script(program: Path, command: Sequence[str]) -> None:
    """Write a program that becomes `command`, with its own arguments after those; executable by this user alone."""
    words = " ".join(shlex.quote(word) for word in command)
    write_file(program, f'#!/bin/sh\nexec {words} "$@"\n'.encode(), private=True)
    program.chmod(0o700)


def take_token() -> None:
    """Give Flower's program, which runs in this process, the token that SuperExec keeps out of the process list."""
    if token := os.environ.pop(TOKEN_VARIABLE, ""):
        sys.argv += [TOKEN_OPTION, token]


def take_call(name: str, connection: socket.socket) -> None:
    """Take over the arguments of a stub, and its output where it has sent that."""
    line, descriptors, _, _ = socket.recv_fds(connection, ARGUMENT_BYTES, 2)
    for theirs, mine in zip(descriptors, (1, 2), strict=False):
        os.dup2(theirs, mine)
        os.close(theirs)
    while not line.endswith(b"\n") and (more := connection.recv(ARGUMENT_BYTES)):
        line += more
    sys.argv = [name, *(str(argument) for argument in json.loads(line))]


def answer_call(name: str, program: Callable[[], object], connection: socket.socket) -> NoReturn:
    """Do the work of a stub in this fork, and exit; the stub gets the exit code too."""

    def work() -> None:
        take_call(name, connection)
        program()

    code = exit_code_of(work)  # flushes the output; the stub's caller may not read it after the answer
    with suppress(OSError):  # the stub may be gone
        connection.sendall(bytes([code]))
    sys.exit(code)
