"""The resident trainer as a server on a Unix socket: `python -m cogen.node.service HOME`, kept up by `cogen join`.

The corpus, the base and the folder are those of `member.toml`, never of a request. What a request may ask
is the policy's to say; what it fails by stays in this process's own log, unless the line was made to leave.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cogen.errors import CogenError, log_error
from cogen.node.channel import is_same_user, listen_at
from cogen.node.home import NodeHome
from cogen.node.policy import allow, allow_round, read_policy, refused
from cogen.node.receipt import sent_in_run
from cogen.node.replies import keep_reply, load_reply, request_key
from cogen.node.resident import answer_with
from cogen.protocol.settings import Site, config_from
from cogen.protocol.wire import Frame, receive, send
from cogen.runs import append_line
from cogen.train.memory import tune_allocator
from cogen.versions import versions

if TYPE_CHECKING:
    from cogen.node.trainer import Trainer

EVALUATION_KEYS = ("bits_per_byte_before", "bits_per_byte_after")


class Service:
    """One domain's trainer: at most one round or scoring at a time, `describe` at any."""

    def __init__(self, home: NodeHome) -> None:
        self.home, self.member = home, home.read_member()
        self._working = threading.Lock()
        self._trainer: tuple[str, str, Trainer] | None = None

    def answer(self, request: Frame) -> Frame:
        """The answer to a request; an error is one that may leave, the rest is logged here."""
        action = str(request.header.get("action"))
        try:
            match action:
                case "describe":
                    return self.describe()
                case "train" | "evaluate":
                    with self._working:
                        return self.work(action, request)
                case _:
                    raise refused("train, evaluate or describe", "another action")
        except Exception as error:  # noqa: BLE001 - every failure must become an answer
            log_error()
            leaves = isinstance(error, CogenError) and error.leaves
            failed = "scoring" if action == "evaluate" else "training"
            known = f"{failed} failed at the domain ({type(error).__name__}); its own log says why"
            return Frame({"error": str(error) if leaves else known})

    def warm_up(self) -> None:
        """Load what the first round needs, so that it does not wait for it."""
        from cogen.node.trainer import preload

        with self._working:
            try:
                preload(self.member.base)
            except Exception:  # noqa: BLE001 - whoever asks for work is told
                log_error()

    def describe(self) -> Frame:
        """What the coordinator is told of this domain before it asks for anything."""
        policy = read_policy(self.home.policy)
        about = {
            "domain": self.member.domain,
            "max_rank": policy.max_rank,
            "max_tokens_per_round": policy.max_tokens_per_round,
            "evaluates": policy.evaluate and policy.evaluation_leaves,
            "version": versions()["cogen-ai"],
        }
        return Frame(about)

    def work(self, action: str, request: Frame) -> Frame:
        """Train a round or score models, within the policy; asked again, the reply that was given before."""
        asked = dict(request.header)
        run = str(asked.pop("run"))
        policy, folder = read_policy(self.home.policy), self.home.run(run)
        allow(policy, "train" if action == "train" else "evaluate", self.member.base_name)
        trainer = self._trainer_of(run, str(asked["settings"]))
        if action == "train":
            rank = trainer.config.rank_of(trainer.domain)
            size = reply_bytes({k: v.shape for k, v in request.arrays.items()}, rank)
            sent = sent_in_run(self.home.receipts, run)
            allow_round(policy, trainer.config, int(asked["round"]), size, sent)
        key, replies = request_key(asked, request.arrays), folder / "replies"
        reply = load_reply(replies, key)
        if reply is None:
            self._note(action, run, asked)
            reply = answer_with(trainer, request)
            keep_reply(replies, key, reply)
        if action == "train" and not policy.evaluation_leaves:
            return Frame({**reply.header, **dict.fromkeys(EVALUATION_KEYS)}, reply.arrays)
        return reply

    def _trainer_of(self, run: str, settings: str) -> Trainer:
        """The trainer of a run, made anew when its settings have changed; always of this domain's own base."""
        from cogen.node.trainer import Trainer

        if self._trainer is None or self._trainer[:2] != (run, settings):
            site = Site(self.member.domain, self.member.data, self.home.run(run))
            config_from(settings, site)
            self._trainer = (run, settings, Trainer(settings, site, base=self.member.base))
        return self._trainer[2]

    def _note(self, action: str, run: str, asked: dict[str, Any]) -> None:
        """For `cogen join` to show: what is worked on now."""
        append_line(self.home.work, {"action": action, "run": run, "round": int(asked["round"])})

    def serve(self, listener: socket.socket) -> None:
        """Answer requests, each connection in a thread of its own, until a `stop`."""
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
                if request.header.get("action") == "stop":
                    send(connection, Frame({}))
                    os._exit(0)
                send(connection, self.answer(request))


def reply_bytes(shapes: dict[str, tuple[int, ...]], rank: int) -> int:
    """Bytes of the float32 factors that a client of `rank` sends back, by the shapes of the global ones."""
    total = 0
    for name, (_, d_in) in ((n, s) for n, s in shapes.items() if n.endswith(".a")):
        d_out = shapes[f"{name.removesuffix('.a')}.b"][0]
        total += 4 * min(rank, d_in, d_out) * (d_in + d_out)
    return total


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
