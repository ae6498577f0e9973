"""Asking the resident trainer of a domain: the ClientApp's side, which outlasts the trainer's restarts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogen.errors import FederationError
from cogen.node.channel import connect_to
from cogen.protocol.wire import Frame, receive, send

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESTART_SECONDS = 120.0
PAUSE_SECONDS = 0.2
MAX_DEATHS = 3


class TrainerGone(FederationError):
    """The resident trainer is not there, or dies over one request again and again."""

    leaves = True


def ask(
    socket_path: Path,
    action: str,
    arrays: Mapping[str, NDArray[Any]] | None = None,
    *,
    patience_seconds: float = RESTART_SECONDS,
    **header: Any,
) -> Frame:
    """Send one request and wait for its answer; while the trainer restarts, wait for it and ask again.

    Asking again does no work twice: what was done before the trainer died is on its disk.

    Args:
        patience_seconds: for a trainer that does not listen.
    Raises:
        TrainerGone: nobody listens for so long, or the trainer has died over this request three times.
    """
    request = Frame({"action": action, **header}, arrays or {})
    for _ in range(MAX_DEATHS):
        try:
            with _connected(socket_path, patience_seconds) as connection:
                send(connection, request)
                return receive(connection)
        except (EOFError, OSError):
            continue
    raise _gone(f"an answer to {action}", f"none in {MAX_DEATHS} attempts: its process ended each time")


def _connected(socket_path: Path, patience_seconds: float) -> Any:
    until = time.monotonic() + patience_seconds
    while True:
        try:
            return connect_to(socket_path)
        except OSError:
            if time.monotonic() > until:
                raise _gone("it to listen", f"no answer for {patience_seconds:g} s") from None
            time.sleep(PAUSE_SECONDS)


def _gone(expected: str, got: str) -> TrainerGone:
    fix = "See its log at the domain; cogen join restarts it."
    return TrainerGone("the domain's trainer is gone", expected=expected, got=got, fix=fix)
