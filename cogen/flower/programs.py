"""Programs under a supervisor: started, ended with the process that started them, and restarted when they die."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

LOG_BYTES = 5_000_000
# Names of domains and files go into logs and files, whatever the encoding of the terminal that started us.
UTF8 = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}
FOLDER_VARIABLES = ("PYTHONPATH", "COGEN_CACHE", "HF_HOME")
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, STABLE_SECONDS = 1.0, 60.0, 60.0


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child process: it imports no module of its current folder, and works in another one.

    Otherwise a file `flwr.py` or a folder `server`, where a command happens to be started, would be run in its place.
    """
    folders = {n: _absolute(environment[n]) for n in FOLDER_VARIABLES if environment.get(n)}
    return {**environment, **UTF8, **folders, "PYTHONSAFEPATH": "1"}


def _absolute(folders: str) -> str:
    """Folders of a variable; an empty one would be the current folder."""
    return os.pathsep.join(str(Path(f).absolute()) for f in folders.split(os.pathsep) if f)


def start_supervised(
    argv: Sequence[str], log: Path, environment: Mapping[str, str], inherit: int | None = None
) -> subprocess.Popen[bytes]:
    """Start a program under a supervisor, its output appended to `log`; the supervisor stops when its stdin is closed.

    The program's current folder is that of its log, which nobody else can write.

    Args:
        inherit: descriptor of a lock, held by the supervisor for as long as it lives.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "cogen.flower.supervisor", *argv],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env=child_environment(environment),
            cwd=log.parent,
            pass_fds=[] if inherit is None else [inherit],
            start_new_session=True,
        )


def request_stop(supervisor: subprocess.Popen[bytes]) -> None:
    """Close the supervisor's stdin: it ends its program, then itself."""
    if supervisor.stdin is not None:
        supervisor.stdin.close()


def stop_supervised(supervisor: subprocess.Popen[bytes]) -> None:
    """Request the stop and wait for it; a second Ctrl-C does not leave anything behind."""
    request_stop(supervisor)
    while True:
        try:
            supervisor.wait(timeout=30.0)
            return
        except subprocess.TimeoutExpired:
            supervisor.kill()
        except KeyboardInterrupt:
            continue


def bound_log(log: Path) -> None:
    """Move a log of more than LOG_BYTES to `<log>.1`; its program goes on writing to `log`.

    The log is copied and emptied, since the program holds it open; lines written between the two steps are lost.
    """
    with suppress(OSError):  # a full disk: the log grows until there is room
        if log.stat().st_size > LOG_BYTES:
            older = log.with_name(f"{log.name}.1")
            shutil.copyfile(log, older)
            older.chmod(0o600)
            os.truncate(log, 0)


@dataclass
class RestartedProgram:
    """A program that is restarted when it dies, after a pause that doubles while it keeps dying.

    Args:
        say: called with a line for every death and every restart.
        follows: a program that this one belongs to: when that one dies, this one is restarted after it.
    """

    name: str
    argv: Sequence[str]
    log: Path
    environment: Mapping[str, str]
    inherit: int
    say: Callable[[str], None]
    follows: RestartedProgram | None = None
    num_followed: int = 0
    supervisor: subprocess.Popen[bytes] | None = None
    num_deaths: int = 0
    pause_seconds: float = FIRST_PAUSE_SECONDS
    since: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Start it."""
        self.supervisor = start_supervised(self.argv, self.log, self.environment, self.inherit)
        self.since = time.monotonic()

    def alive(self) -> bool:
        """Whether it runs."""
        return self.supervisor is not None and self.supervisor.poll() is None

    def check(self) -> None:
        """Restart it if it has died, and bound its log; called every half second or so."""
        now = time.monotonic()
        bound_log(self.log)
        if self.follows is not None:
            self._end_with(self.follows)
            if not self.follows.alive():
                return
        if self.alive():
            if now - self.since > STABLE_SECONDS:
                self.pause_seconds = FIRST_PAUSE_SECONDS
            return
        if self.supervisor is not None:
            stop_supervised(self.supervisor)
            code, self.supervisor, self.since = self.supervisor.returncode, None, now
            self.num_deaths += 1
            again = f"again in {self.pause_seconds:g} s"
            self.say(f"{self.name} ended (exit {code}); {again}; its log is {self.log}")
        elif now - self.since >= self.pause_seconds:
            self.pause_seconds = min(2.0 * self.pause_seconds, MAX_PAUSE_SECONDS)
            self.start()
            self.say(f"{self.name} started again")

    def _end_with(self, owner: RestartedProgram) -> None:
        """End with the owner; started again without a pause when that one is there again."""
        if owner.num_deaths == self.num_followed:
            return
        self.num_followed = owner.num_deaths
        if self.supervisor is not None:
            stop_supervised(self.supervisor)
            self.supervisor, self.since = None, time.monotonic() - self.pause_seconds


def stop_all(programs: Iterable[RestartedProgram]) -> None:
    """Stop the programs, all at the same time, and wait for them."""
    supervisors = [program.supervisor for program in programs if program.supervisor is not None]
    for supervisor in supervisors:
        request_stop(supervisor)
    for supervisor in supervisors:
        stop_supervised(supervisor)
