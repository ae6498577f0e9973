"""A joined domain's trainer, a server on a Unix socket: `python -m cogen.node.service HOME`, kept running by `cogen join`.

Corpus, base model and folder are those of `member.toml`, never of a request. The policy decides what a request may ask.
The reason of a failure stays in this process's own log, unless the error is marked as safe to share.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from contextlib import suppress

from cogen.errors import CogenError, log_error
from cogen.node.channel import is_same_user, listen_at
from cogen.node.home import NodeHome
from cogen.node.node import Node, Site
from cogen.node.policy import refused
from cogen.node.stopping import Check, Turns, go_on, stop_when_gone
from cogen.protocol.messages import FailureReply, HelloRequest, Message, pack, unpack_request
from cogen.protocol.wire import Frame, receive, send
from cogen.train.memory import tune_allocator

KINDS = {"hello", "train", "evaluate"}
WORK = {"train": "training", "evaluate": "scoring"}


class Service:
    """One domain's trainer: at most one round or scoring at a time, scorings first; a hello is answered meanwhile."""

    def __init__(self, home: NodeHome) -> None:
        self.member = member = home.read_member()
        self.node = Node(Site(domain=member.domain, data=member.data, base=member.base), home)
        self._turns = Turns()

    def answer(self, asked: Frame, check: Check = go_on) -> Message:
        """The reply to a request. An error that may be shared is sent as its line; every error is logged here.

        Args:
            check: called at every step; what it raises stops the work.
        """
        kind = str(asked.header.get("kind"))
        try:
            if kind not in KINDS:
                raise refused("a hello, train or evaluate request", "another kind")
            request = unpack_request(asked)
            if isinstance(request, HelloRequest):
                return self.node.answer(request)
            with self._turns.taken(is_small=kind == "evaluate", check=check):
                return self.node.answer(request, check)
        except Exception as error:  # noqa: BLE001 - every failure must become a reply
            log_error()
            if isinstance(error, CogenError) and error.is_shareable:
                return FailureReply(error=str(error))
            work = WORK.get(kind, "the request")
            return FailureReply(error=f"{work} failed at the domain ({type(error).__name__}); its own log says why")

    def warm_up(self) -> None:
        """Load what the first round needs, before it comes."""
        from cogen.node.loaded_base import preload

        with self._turns.taken(is_small=False):
            try:
                preload(self.member.base, fingerprint=self.member.fingerprint)
            except Exception:  # noqa: BLE001 - the first request for work gets the reason
                log_error()

    def serve(self, listener: socket.socket) -> None:
        """Answer requests until a `stop`; every connection has its own thread."""
        while True:
            connection, _ = listener.accept()
            if is_same_user(connection):
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()
            else:
                connection.close()

    def _talk(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, EOFError, ValueError):
            while True:
                request = receive(connection)
                if request.header.get("kind") == "stop":
                    send(connection, Frame({}))
                    os._exit(0)
                send(connection, pack(self.answer(request, stop_when_gone(connection))))


def main() -> None:
    """`python -m cogen.node.service HOME`."""
    tune_allocator()
    os.umask(0o077)
    home = NodeHome(sys.argv[1])
    try:
        service = Service(home)
    except CogenError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    threading.Thread(target=service.warm_up, daemon=True).start()
    service.serve(listen_at(home.socket))


if __name__ == "__main__":
    main()
