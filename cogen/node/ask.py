"""The ClientApp's side of the socket to a joined domain's trainer; it waits while the trainer restarts."""

from __future__ import annotations

import math
import socket
import time
from pathlib import Path

from cogen.errors import FederationError
from cogen.node.channel import connect_to
from cogen.protocol.messages import FailureReply, Reply, Request, pack, unpack_reply
from cogen.protocol.wire import receive, send

RESTART_SECONDS = 120.0
PAUSE_SECONDS = 0.2
MAX_DEATHS = 3
SHORT_SECONDS = 0.01


class TrainerGone(FederationError):
    """The trainer process is not there, or dies over one request again and again."""

    is_shareable = True


class TrainerLate(FederationError):
    """The reply did not come while it was of use."""

    is_shareable = True

    @classmethod
    def after(cls, seconds: float) -> TrainerLate:
        """The error after so many seconds."""
        fix = "The work stops; asked again, it goes on from the last saved state."
        return cls("no reply in time", expected=f"a reply within {seconds:g} s", got="none", fix=fix)


class TrainerFailure(FederationError):
    """The trainer's own line, made to be sent to the coordinator."""

    is_shareable = True

    def __init__(self, line: str) -> None:
        Exception.__init__(self, line)


def ask(
    socket_path: Path,
    request: Request,
    *,
    patience_seconds: float = RESTART_SECONDS,
    seconds: float | None = None,
) -> Reply:
    """Send one request and wait for the reply; while the trainer restarts, wait and ask again.

    A repeated request does no work twice: what was done before the trainer died is on its disk.

    Args:
        patience_seconds: for a trainer that does not listen.
        seconds: how long the reply is of use; then the connection is closed, at which the trainer stops.
    Raises:
        TrainerFailure: the trainer refuses or failed.
        TrainerLate: the time is over.
        TrainerGone: it does not listen for that long, or has died over this request three times.
    """
    frame = pack(request)
    until = math.inf if seconds is None else time.monotonic() + seconds
    for _ in range(MAX_DEATHS):
        try:
            with _connected(socket_path, patience_seconds) as connection:
                connection.settimeout(None if seconds is None else max(until - time.monotonic(), SHORT_SECONDS))
                send(connection, frame)
                answered = receive(connection)
        except TimeoutError:
            raise TrainerLate.after(seconds or 0.0) from None
        except (EOFError, OSError):
            continue
        reply = unpack_reply(answered)
        if isinstance(reply, FailureReply):
            raise TrainerFailure(reply.error)
        return reply
    got = f"none in {MAX_DEATHS} attempts: its process ended each time"
    raise _gone(f"an answer to {request.kind}", got)


def _connected(socket_path: Path, patience_seconds: float) -> socket.socket:
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
