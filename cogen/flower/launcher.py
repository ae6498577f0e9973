"""What a SuperNode finds first in its PATH: a `flwr-clientapp` that asks the warm process of `cogen/flower/clientapp_process.py`.

The coordinator says what kind of task a message is, and each kind is a program of Flower's that unpacks and
runs what it is sent. A domain has use for one of them; the others are shadowed by a program that refuses.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from cogen.node.home import NodeHome, write_private

# No import but the standard library's: Python alone starts in a fiftieth of a second.
PROGRAM = """\
import json, os, socket, sys
try:
    os.chdir({home!r})
    warm = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    warm.connect({name!r})
except OSError:
    os.execv({python!r}, [{python!r}, "-m", "cogen.flower.clientapp_process", *sys.argv[1:]])
warm.sendall(json.dumps(sys.argv[1:]).encode() + b"\\n")
sys.exit((warm.recv(1) or b"\\1")[0])
"""

OTHER_PROGRAMS = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-serverapp", "flwr-simulation")
REFUSAL = (
    "#!/bin/sh\necho 'refused: a domain runs the ClientApp of its own installation, and nothing else' >&2\nexit 1\n"
)


def write_launcher(home: NodeHome) -> Path:
    """Write the programs into a folder of their own; returns the folder, which goes first in PATH."""
    text = PROGRAM.format(home=str(home.path), name=home.launcher_socket.name, python=sys.executable)
    program = home.programs / "flwr-clientapp.py"
    write_private(program, text.encode())
    start = home.programs / "flwr-clientapp"
    words = " ".join(shlex.quote(w) for w in (sys.executable, "-IS", str(program)))
    write_private(start, f'#!/bin/sh\nexec {words} "$@"\n'.encode())
    start.chmod(0o700)
    for name in OTHER_PROGRAMS:
        write_private(home.programs / name, REFUSAL.encode())
        (home.programs / name).chmod(0o700)
    return home.programs
