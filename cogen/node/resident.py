"""A simulated domain's trainer in a process of its own, which outlives the message that started it.

Flower starts ClientApps afresh and often, and a base model must not be loaded for each of them. The caller's side
(`ResidentTrainer`) needs no torch. If the process dies, the call fails with the reason, and the next call starts another
process: a fork of the preforked one where there is one (`cogen.node.prefork`), else a new one.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from cogen.errors import CogenError, FederationError, log_error
from cogen.node.channel import connect_to
from cogen.node.node import Node, Site
from cogen.protocol.messages import FailureReply, Message, Reply, WorkRequest, pack, unpack_reply, unpack_request
from cogen.protocol.wire import Frame, receive, send
from cogen.train.memory import tune_allocator

PREFORKED = "COGEN_TRAINERS"  # environment variable with the socket of the preforked trainer


class ResidentTrainer:
    """The caller's handle on a trainer process; the process logs into the run that it was started for."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Of its own process, while there is one."""
        return None if self._process is None else self._process.pid

    def call(self, site: Site, request: WorkRequest, logs: Path) -> Reply:
        """Have a round trained or models scored at a domain, and wait for the reply.

        Raises:
            FederationError: the trainer reported an error, or died.
        """
        with self._lock:
            connection = self._connect(logs)
            try:
                send(connection, Frame(site.model_dump()))
                send(connection, pack(request))
                answered = receive(connection)
            except (EOFError, OSError):
                raise _failed("an answer", self._reap(), site.domain) from None
        reply = unpack_reply(answered)
        if isinstance(reply, FailureReply):
            raise _failed("a trained reply", reply.error, site.domain)
        return reply

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            if self._connection is not None:
                self._reap()

    def _connect(self, logs: Path) -> socket.socket:
        if self._connection is None:
            self._connection = self._fork() or self._start(logs)
        return self._connection

    def _fork(self) -> socket.socket | None:
        """A fork of the preforked trainer, where there is one."""
        if path := os.environ.get(PREFORKED):
            with suppress(OSError):
                return connect_to(Path(path))
        return None

    def _start(self, logs: Path) -> socket.socket:
        """A process of its own."""
        mine, theirs = socket.socketpair()
        logs.mkdir(parents=True, exist_ok=True)
        with open(logs / "trainer.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cogen.node.resident", str(theirs.fileno())],
                cwd=logs,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        theirs.close()
        return mine

    def _reap(self) -> str:
        """Close, end and forget the process; say how it ended."""
        process, self._process = self._process, None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if process is None:
            return "the trainer process died (see logs/trainer.log)"
        try:
            code = process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"the trainer process died ({how}; see logs/trainer.log)"


def _failed(expected: str, got: str, domain: str) -> FederationError:
    return FederationError(
        "client failed", expected=expected, got=got, where=domain, fix="See the client's log, mend it, and resume."
    )


def serve(connection: socket.socket) -> None:
    """Answer requests until the other side is gone; an error is answered and ends nothing."""
    nodes: dict[str, Node] = {}
    while True:
        try:
            site = Site(**receive(connection).header)
            asked = receive(connection)
        except EOFError:
            return
        if site.domain not in nodes or nodes[site.domain].site != site:
            nodes[site.domain] = Node(site)
        send(connection, pack(_answer(nodes[site.domain], asked)))


def _answer(node: Node, asked: Frame) -> Message:
    try:
        return node.answer(unpack_request(asked))
    except CogenError as error:
        return FailureReply(error=str(error))
    except Exception as error:  # noqa: BLE001 - the server must get every error as this client's reason
        log_error()
        return FailureReply(error=f"{type(error).__name__}: {error}")


def end_with(connection: socket.socket) -> None:
    """Leave when the other side is gone, even in the middle of a round."""

    def wait() -> None:
        closed = select.poll()
        closed.register(connection, 0)  # nothing but its end
        closed.poll()
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """`python -m cogen.node.resident FD`; started by ResidentTrainer alone."""
    tune_allocator()
    connection = socket.socket(fileno=int(sys.argv[1]))
    end_with(connection)
    serve(connection)


if __name__ == "__main__":
    main()
