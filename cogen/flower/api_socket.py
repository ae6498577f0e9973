"""The Unix socket at which Flower's API listens: `api.sock` in the FLWR_HOME of a SuperNode or a SuperLink.

Flower's API asks nobody who he is: on a TCP port of loopback, every account of the machine could take a domain's messages
and answer them, or send code to all nodes. The socket is open to its own user alone (`cogen.node.channel`). Two patches
bring Flower to it: `api_listens_at_socket` and `api_asked_at_socket`. Flower's programs still want a host and a port.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from cogen.errors import FederationError
from cogen.node.channel import connect_to

HOST, PORT = "127.0.0.1", "1"
ADDRESS = f"{HOST}:{PORT}"
"""Stands for the socket. No program without the patches reaches anybody there: only root may listen at port 1."""
READY_SECONDS = 60.0


def api_socket(home: Path | None = None) -> Path:
    """The socket in this FLWR_HOME; None is that of this process."""
    return (Path(os.environ["FLWR_HOME"]) if home is None else home) / "api.sock"


def wait_ready(home: Path, logs: Path, alive: Callable[[], bool]) -> None:
    """Wait until the SuperLink with this FLWR_HOME listens.

    Raises:
        FederationError: it has ended, or does not listen in time.
    """
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and alive():
        if listens(home):
            return
        time.sleep(0.1)
    raise FederationError(
        "cannot start Flower's SuperLink",
        expected=f"it to listen at {api_socket(home)}",
        got="no answer" if alive() else "it ended",
        where=str(logs / "superlink.log"),
        fix="See its log.",
    )


def listens(home: Path) -> bool:
    """Whether a program listens at the socket."""
    try:
        connect_to(api_socket(home)).close()
    except OSError:
        return False
    return True
