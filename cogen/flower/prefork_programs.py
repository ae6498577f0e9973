"""Flower's programs of a simulation, prepared: forks of one process that has imported Flower (`cogen/flower/prefork.py`).

What is started in their place is a few lines of Python that hand over arguments and where to write, and wait for
the exit code. If nobody listens there, they are Flower's own programs.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

# No import but the standard library's: Python alone starts in a fiftieth of a second.
PROGRAM = """\
import json, os, socket, sys
try:
    folder = os.open({folder!r}, os.O_RDONLY)  # whose path may be too long for a socket's address
    prepared = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    prepared.connect(f"/proc/self/fd/{{folder}}/{name}.sock")
    socket.send_fds(prepared, [json.dumps(sys.argv[1:]).encode() + b"\\n"], [1, 2])
except OSError:
    os.execv({plain!r}, [{plain!r}, *sys.argv[1:]])
sys.exit((prepared.recv(1) or b"\\1")[0])
"""
NAMES = ("flwr", "flwr-simulation")


def can_prepare() -> bool:
    """Linux alone: elsewhere a fork of what has imported much is not safe."""
    return sys.platform.startswith("linux")


def programs_of(home: Path) -> Path:
    """Where a private home has the programs to be found before Flower's own."""
    return home / "programs"


def write_programs(home: Path) -> Path:
    """Write the programs that ask the prepared process; returns their folder, which goes first in PATH."""
    folder = programs_of(home)
    folder.mkdir(mode=0o700)
    for name in NAMES:
        plain = str(Path(sys.executable).with_name(name))
        text = PROGRAM.format(folder=str(home), name=name, plain=plain)
        (folder / f"{name}.py").write_text(text, "utf-8")
        words = " ".join(shlex.quote(w) for w in (sys.executable, "-IS", str(folder / f"{name}.py")))
        (folder / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n', "utf-8")
        (folder / name).chmod(0o700)
    return folder


def prepared(home: Path, num_clients: int, cpus_each: int) -> list[str]:
    """What goes before SuperLink's command line to have it, and the rest of Flower, from one process; nothing elsewhere.

    Args:
        home: a private FLWR_HOME, which gets its programs.
        num_clients: at a time.
        cpus_each: cores that Ray has for each of them.
    """
    if not can_prepare():
        return []
    write_programs(home)
    cpus = (str(num_clients * cpus_each), str(cpus_each))
    return [sys.executable, "-P", "-m", "cogen.flower.prefork", str(home), *cpus]
