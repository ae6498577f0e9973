"""Runs Flower's `flower-superexec`, which starts a program for each task of a SuperNode or SuperLink.

Flower starts it once and never again. Here `cogen join` and `cogen serve` do, so that it is restarted when it ends. It
shows a secret when it asks for tasks; Flower calls that process isolation.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cogen.files import write_file
from cogen.flower.memory import collect_often
from cogen.flower.patches import apply_or_exit
from cogen.flower.programs import RestartedProgram

SECRET_BYTES = 32


def superexec_for(
    owner: RestartedProgram,
    address: str,
    trust: Sequence[str],
    secret: Path,
    environment: Mapping[str, str],
    log: Path,
    handle: int,
    say: Callable[[str], None],
) -> RestartedProgram:
    """The SuperExec of a SuperNode or a SuperLink, and a new secret for both; it ends with its owner.

    Args:
        address: that stands for the owner's socket.
        trust: arguments that say how the owner's certificate is checked.
        secret: the file that the owner's `isolated(secret)` names.
    """
    write_file(secret, secrets.token_bytes(SECRET_BYTES), private=True)
    argv = [sys.executable, "-P", "-m", "cogen.flower.superexec_process", *trust, "--runtime-api-address", address]
    argv += ["--superexec-auth-secret-file", str(secret)]
    return RestartedProgram("Flower's SuperExec", argv, log, environment, handle, say, follows=owner)


def isolated(secret: Path) -> list[str]:
    """Arguments of a SuperNode or a SuperLink that does not start a SuperExec."""
    return ["--isolation", "process", "--superexec-auth-secret-file", str(secret)]


def main() -> None:
    """`python -m cogen.flower.superexec_process ARGS`, the arguments of `flower-superexec`."""
    apply_or_exit("api_asked_at_socket", "superexec_hides_token", "superexec_retry_soon")
    from flwr.supercore.cli.flower_superexec import flower_superexec

    collect_often()
    flower_superexec()


if __name__ == "__main__":
    main()
