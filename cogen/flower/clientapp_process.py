"""Runs Flower's `flwr-clientapp`, which starts for every message: only the installed app is unpacked and imported.

Importing Flower takes 1.5 s of CPU for every message. `--serve SOCKET` starts a process that has imported it once, and
forks for each message; the `flwr-clientapp` that a SuperNode finds in PATH is a stub that asks this process.
"""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path

from cogen.flower.patches import apply_or_exit
from cogen.flower.stubs import answer_call, take_token
from cogen.node.channel import listen_at
from cogen.node.fork_server import serve_forks

CLIENT_APP = "clients.client_app"
PROGRAM = "flwr-clientapp"
NEEDED = ("api_asked_at_socket", "clientapp_check_app", "clientapp_pull_soon")


def run() -> None:
    """Flower's own program for one message, whose arguments are in sys.argv."""
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    apply_or_exit(*NEEDED)
    flwr_clientapp()


def serve(path: Path) -> None:
    """Import what every message needs, then fork for each message."""
    import flwr.supernode.cli.flwr_clientapp  # noqa: F401  - saves 1.5 s for each message

    importlib.import_module(CLIENT_APP)
    apply_or_exit(*NEEDED)
    serve_forks(listen_at(path), partial(answer_call, PROGRAM, run))


def main() -> None:
    """`python -m cogen.flower.clientapp_process ARGS` runs one message, `... --serve SOCKET` serves many."""
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
    else:
        sys.argv[0] = PROGRAM
        take_token()
        run()


if __name__ == "__main__":
    main()
