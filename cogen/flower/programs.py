"""Programs under the guard: started, ended with whoever started them, and started again when they die."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

LOG_BYTES = 5_000_000
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, WELL_SECONDS = 1.0, 60.0, 60.0


def start_supervised(
    argv: Sequence[str], log: Path, environment: Mapping[str, str], inherit: int | None = None
) -> subprocess.Popen[bytes]:
    """Start a program under the guard, its output appended to `log`; the guard ends when its stdin is closed.

    Args:
        inherit: descriptor of a lock, held by the guard for as long as it lives.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "cogen.flower.supervisor", *argv],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env=dict(environment),
            pass_fds=[] if inherit is None else [inherit],
            start_new_session=True,
        )


def order_end(guard: subprocess.Popen[bytes]) -> None:
    """Closing the pipe is the order."""
    if guard.stdin is not None:
        guard.stdin.close()


def stop_supervised(guard: subprocess.Popen[bytes]) -> None:
    """Give the order and wait; a second Ctrl-C must not leave anything behind."""
    order_end(guard)
    while True:
        try:
            guard.wait(timeout=30.0)
            return
        except subprocess.TimeoutExpired:
            guard.kill()
        except KeyboardInterrupt:
            continue


def bound_log(log: Path) -> None:
    """Move what a program has logged to `<log>.1` when it is more than LOG_BYTES; the program goes on writing to `log`.

    Copied and emptied, since the program holds the file open; what it says between the two is lost.
    """
    with suppress(OSError):  # a full disk: the log grows until there is room
        if log.stat().st_size > LOG_BYTES:
            older = log.with_name(f"{log.name}.1")
            shutil.copyfile(log, older)
            older.chmod(0o600)
            os.truncate(log, 0)


@dataclass
class Kept:
    """A program that is started again when it dies, after a pause that doubles while it keeps dying.

    Args:
        say: told of every death and start.
    """

    name: str
    argv: Sequence[str]
    log: Path
    environment: Mapping[str, str]
    inherit: int
    say: Callable[[str], None]
    guard: subprocess.Popen[bytes] | None = None
    num_deaths: int = 0
    pause_seconds: float = FIRST_PAUSE_SECONDS
    since: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Start it."""
        self.guard, self.since = start_supervised(self.argv, self.log, self.environment, self.inherit), time.monotonic()

    def alive(self) -> bool:
        """Whether it runs."""
        return self.guard is not None and self.guard.poll() is None

    def keep(self) -> None:
        """Look after it; called every half a second or so."""
        now = time.monotonic()
        bound_log(self.log)
        if self.alive():
            if now - self.since > WELL_SECONDS:
                self.pause_seconds = FIRST_PAUSE_SECONDS
            return
        if self.guard is not None:
            stop_supervised(self.guard)
            code, self.guard, self.since = self.guard.returncode, None, now
            self.num_deaths += 1
            again = f"again in {self.pause_seconds:g} s"
            self.say(f"{self.name} ended (exit {code}); {again}; its log is {self.log}")
        elif now - self.since >= self.pause_seconds:
            self.pause_seconds = min(2.0 * self.pause_seconds, MAX_PAUSE_SECONDS)
            self.start()
            self.say(f"{self.name} started again")
