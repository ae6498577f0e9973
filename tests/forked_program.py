"""Programs as processes of their own that need not import torch: forks of one process that has, for tests.

Importing torch, transformers and a model's code takes 8 s of a slow CPU, and the suite starts a hundred programs. A
`ForkedProgram` is a `subprocess.Popen` in all else: own pid, environment, folder and pipes; signals and kills are real.
Where forking is not safe, it is an ordinary process.
"""

from __future__ import annotations

import array
import atexit
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

from cogen.node.channel import connect_to, listen_at
from cogen.node.fork_server import exit_code_of
from cogen.node.prefork import can_fork
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent
MAX_REQUEST = 1 << 20
NUMBER = struct.Struct("q")  # first the pid, then the status of its end


class ForkedProgram(subprocess.Popen[Any]):
    """`subprocess.Popen([sys.executable, "-m", MODULE, ...])` or of a script, as a fork of the prepared process.

    Of Popen's options it knows the pipes, `cwd`, `env` and the text modes. SIGINT interrupts it, as at a terminal.
    """

    _status: socket.socket

    def _execute_child(self, args: list[str], *rest: Any) -> None:  # type: ignore[override]
        _, _, _, _, cwd, env, _, _, _, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *_ = rest
        if not can_fork() or args[0] != sys.executable:
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        self._status = connect_to(prepared_process())
        asked = {
            "argv": [os.fspath(a) for a in args[1:]],
            "cwd": str(cwd or Path.cwd()),
            "env": {k: os.fspath(v) for k, v in (os.environ if env is None else env).items()},
        }
        handles = [own if own != -1 else std for own, std in ((p2cread, 0), (c2pwrite, 1), (errwrite, 2))]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", handles))]
        self._status.sendmsg([json.dumps(asked).encode() + b"\n"], rights)
        (self.pid,) = NUMBER.unpack(self._status.recv(NUMBER.size, socket.MSG_WAITALL))
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if not hasattr(self, "_status"):
            return super()._try_wait(wait_flags)  # type: ignore[misc,no-any-return]
        if wait_flags & os.WNOHANG and not select.select([self._status], [], [], 0)[0]:
            return 0, 0
        said = self._status.recv(NUMBER.size, socket.MSG_WAITALL)
        self._status.close()
        return self.pid, NUMBER.unpack(said)[0] if said else signal.SIGKILL

    def _internal_poll(self, *args: Any, **others: Any) -> int | None:
        if not hasattr(self, "_status"):
            return super()._internal_poll(*args, **others)  # type: ignore[misc,no-any-return]
        if self.returncode is None and self._waitpid_lock.acquire(False):  # type: ignore[attr-defined]
            try:
                if self.returncode is None and (done := self._try_wait(os.WNOHANG))[0]:
                    self._handle_exitstatus(done[1])  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


def run_forked(args: list[str], timeout: float | None = None, **options: Any) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run(args, capture_output=True, text=True)` of a `ForkedProgram`."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with ForkedProgram(args, **(pipes | options)) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(args, process.returncode, out, err)


@cache
def prepared_process() -> Path:
    """Start the process to fork from, which ends with this one; the path of its socket."""
    place = Path(tempfile.mkdtemp(prefix="forked-")) / "socket"
    command = [sys.executable, "-m", "tests.forked_program", str(place)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT)
    atexit.register(
        lambda: (process.stdin and process.stdin.close(), process.wait(), place.unlink(), place.parent.rmdir())
    )
    assert wait_until(lambda: place.exists() or process.poll() is not None, 600.0) and place.exists()
    return place


def main() -> None:
    """Load what is slow, then fork for each request until stdin ends."""
    _load()
    listener, (woken, wake) = listen_at(Path(sys.argv[1])), os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listener, woken, 0], [], [])
        if 0 in ready:
            return
        if woken in ready:
            os.read(woken, 4096)
        while running and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with running.pop(ended[0]) as connection:
                connection.sendall(NUMBER.pack(ended[1]))
        if listener in ready:
            connection, _ = listener.accept()
            asked, handles = _receive(connection)
            if (pid := os.fork()) == 0:
                _become(asked, handles, [listener, *running.values(), connection], (woken, wake))
            for handle in handles:
                os.close(handle)
            running[pid] = connection
            connection.sendall(NUMBER.pack(pid))


def _load() -> None:
    import torch

    torch.set_num_threads(1)  # no pool of threads, which a fork would lack
    import peft  # noqa: F401
    import transformers.models.auto.modeling_auto
    import transformers.models.llama.modeling_llama  # noqa: F401

    import cogen.cli.app
    import cogen.node.service  # noqa: F401


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    text, handles, _, _ = socket.recv_fds(connection, MAX_REQUEST, 3)
    while not text.endswith(b"\n"):
        text += connection.recv(MAX_REQUEST)
    return json.loads(text), handles


def _become(asked: dict[str, Any], handles: list[int], sockets: list[socket.socket], pipe: tuple[int, int]) -> None:
    """Be the program that is asked for, to its end."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for one in sockets:
            one.close()
        for number, handle in enumerate(handles):
            os.dup2(handle, number)
        for handle in (*handles, *pipe):
            os.close(handle)
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        code = exit_code_of(lambda: _run(asked["argv"]))
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    finally:
        os._exit(code)


def _run(argv: list[str]) -> None:
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    atexit._clear()
    if argv[0] != "-m":
        sys.argv, sys.path[0] = argv, str(Path(argv[0]).parent)
        runpy.run_path(argv[0], run_name="__main__")
        return
    sys.argv, sys.path[0] = argv[1:], str(Path.cwd())
    if (module := sys.modules.get(argv[1])) is not None:
        module.main()
    else:
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
