"""A trainer in a process of its own, which outlives the message that started it.

Flower starts ClientApps afresh and often; a model must not be loaded for each. The caller's side
(`ResidentTrainer`) needs no torch. If the process dies, that call fails with its reason and the next
call starts a new one: a fork of a warm one where that is there (`cogen.node.prefork`), else its own.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogen.errors import CogenError, FederationError, log_error
from cogen.node.channel import connect_to
from cogen.protocol.settings import Site
from cogen.protocol.wire import Frame, receive, send
from cogen.train.memory import tune_allocator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cogen.node.trainer import Trainer

WARM = "COGEN_TRAINERS"  # the socket of a warm trainer, in the environment


class ResidentTrainer:
    """The caller's handle on a trainer process, which logs into the run that it was started for."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Of its own process, while there is one."""
        return None if self._process is None else self._process.pid

    def call(
        self, action: str, site: Site, logs: Path, arrays: Mapping[str, NDArray[Any]] | None = None, **header: Any
    ) -> Frame:
        """Ask for `train` or `evaluate` of a run at a domain, and wait for the answer.

        Raises:
            FederationError: the trainer reported an error, or died.
        """
        where = {"domain": site.domain, "data": site.data, "folder": str(site.folder)}
        with self._lock:
            connection = self._connect(logs)
            try:
                send(connection, Frame({"action": action, **where, **header}, arrays or {}))
                answer = receive(connection)
            except (EOFError, OSError):
                raise _failed("an answer", self._reap(), site.domain) from None
        if "error" in answer.header:
            raise _failed("a trained reply", str(answer.header["error"]), site.domain)
        return answer

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
        """A fork of the warm trainer, where there is one."""
        if path := os.environ.get(WARM):
            with suppress(OSError):
                return connect_to(Path(path))
        return None

    def _start(self, logs: Path) -> socket.socket:
        """A process of its own."""
        mine, theirs = socket.socketpair()
        logs.mkdir(parents=True, exist_ok=True)
        with open(logs / "trainer.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cogen.node.resident", str(theirs.fileno())],
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
    """Answer requests until the other side is gone. An error is answered, and ends nothing."""
    trainers: dict[str, Trainer] = {}
    while True:
        try:
            request = receive(connection)
        except EOFError:
            return
        try:
            answer = answer_with(_trainer(trainers, request), request)
        except CogenError as error:
            answer = Frame({"error": str(error)})
        except Exception as error:  # noqa: BLE001 - whatever went wrong must reach the server as this client's reason
            log_error()
            answer = Frame({"error": f"{type(error).__name__}: {error}"})
        send(connection, answer)


def _trainer(trainers: dict[str, Trainer], request: Frame) -> Trainer:
    """The domain's trainer, made anew when the run's settings or its place have changed."""
    from cogen.node.trainer import Trainer

    asked = request.header
    site = Site(str(asked["domain"]), str(asked["data"]), Path(asked["folder"]))
    known = trainers.get(site.domain)
    if known is None or (known.settings, known.site) != (asked["settings"], site):
        trainers[site.domain] = known = Trainer(str(asked["settings"]), site)
    return known


def answer_with(trainer: Trainer, request: Frame) -> Frame:
    """What the trainer makes of a request to train or to evaluate."""
    import torch

    from cogen.node.trainer import from_arrays, to_arrays

    asked = dict(request.header)
    tensors = {k: torch.from_numpy(v.copy()) for k, v in request.arrays.items()}
    if asked["action"] == "evaluate":
        models = {
            name: from_arrays(
                {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")}, s
            )
            for name, s in asked["models"].items()
        }
        return Frame({"cells": [vars(c) for c in trainer.evaluate(models)]})
    reply = trainer.train(int(asked["round"]), from_arrays(tensors, float(asked["scaling"])))
    header = {
        "num_tokens": reply.num_tokens,
        "bits_per_byte_before": reply.bits_per_byte_before,
        "bits_per_byte_after": reply.bits_per_byte_after,
        "seconds": round(reply.seconds, 4),
        "fingerprint": vars(trainer.base.info.fingerprint),
    }
    return Frame(header, {k: v.numpy() for k, v in to_arrays(reply.factors).items()})


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
