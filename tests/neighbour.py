"""Another user of a machine on which programs run: all that it gets of them without a right (Linux; started by root).

`python -P -m tests.neighbour` becomes `nobody`. Each line of stdin says whom to look at: {"pids", "ports", "sockets", "files"}
as JSON; the line that answers it has all that was got so far.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
from flwr.proto import control_pb2, runtime_pb2
from flwr.supercore.constant import TASK_TOKEN_HEADER

NOBODY = 65534
OF_ITS_OWN: dict[str, Callable[[Path], Any]] = {  # in /proc/PID, of its user alone
    **dict.fromkeys(("environ", "maps", "mem"), lambda path: path.open("rb").close()),
    "fd": lambda path: list(path.iterdir()),
    "cwd": Path.readlink,
}
ASKED: dict[str, Any] = {
    "/v1/runtime/acquire-task": runtime_pb2.AcquireTaskRequest(
        supported_task_types=["flwr-clientapp", "flwr-serverapp"]
    ),
    "/v1/runtime/pull-task-input": runtime_pb2.PullTaskInputRequest(),
    "/v1/runtime/pull-messages": runtime_pb2.PullAppMessagesRequest(),
    "/v1/runtime/push-task-output": runtime_pb2.PushTaskOutputRequest(sub_status="failed"),
    "/v1/control/list-runs": control_pb2.ListRunsRequest(),
}


class Neighbour:
    """What was got so far: tokens in process lists, answers of Flower, open sockets, files, and insides of processes."""

    def __init__(self) -> None:
        self.tokens, self.got = set[str](), set[str]()

    def look(self, pids: Iterable[int], ports: Iterable[int], sockets: Iterable[str], files: Iterable[str]) -> None:
        """Try everything once."""
        for pid in pids:
            self._look_at(pid)
        for port in ports:
            for scheme in ("http", "https"):
                self._ask(f"{scheme}://127.0.0.1:{port}")
        for path in sockets:
            with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
                self.got.add(f"connected to {path}")
        for path in files:
            if os.access(path, os.R_OK) or os.access(path, os.W_OK):
                self.got.add(f"opens {path}")

    def _look_at(self, pid: int) -> None:
        words = [""]
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace").split("\0")
            self.tokens |= {after for word, after in pairwise(words) if word == "--token"}
        if words == [""]:  # it has ended, and has no memory
            return
        for name, read in OF_ITS_OWN.items():
            with suppress(OSError):
                read(Path(f"/proc/{pid}/{name}"))
                self.got.add(f"reads {name} of {words[:4]}")
        with suppress(OSError):
            os.kill(pid, 0)
            self.got.add(f"may signal {words[:4]}")

    def _ask(self, server: str) -> None:
        kind = {"content-type": "application/protobuf", "accept": "application/protobuf"}
        about = {
            "flwr-package-name": "flwr",
            "flwr-package-version": version("flwr"),
            "flwr-component-name": "superexec",
        }
        with suppress(httpx.HTTPError), httpx.Client(verify=False, trust_env=False, timeout=2.0) as client:
            for path, request in ASKED.items():
                for token in ({}, *({TASK_TOKEN_HEADER: t} for t in sorted(self.tokens))):
                    answer = client.post(
                        server + path, content=request.SerializeToString(), headers={**kind, **about, **token}
                    )
                    if answer.status_code == 200:
                        self.got.add(f"{len(answer.content) > 0} answer of {path} {'with a token' if token else ''}")


def main() -> None:
    """Look until stdin ends."""
    socket.getaddrinfo("127.0.0.1", 80)  # imports
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    neighbour = Neighbour()
    for line in sys.stdin:
        neighbour.look(**json.loads(line))
        print(json.dumps({"tokens": sorted(neighbour.tokens), "got": sorted(neighbour.got)}), flush=True)


if __name__ == "__main__":
    main()
