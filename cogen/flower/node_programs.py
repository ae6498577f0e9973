"""The programs of a member: the resident trainer, the preforked ClientApp, Flower's SuperExec and SuperNode."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cogen.flower.api_socket import ADDRESS, HOST, PORT
from cogen.flower.bundle import HOME_VARIABLE
from cogen.flower.memory import MALLOC_ENVIRONMENT
from cogen.flower.patches.domain import APP_VARIABLE, TASK_PROGRAMS
from cogen.flower.programs import RestartedProgram, stop_all
from cogen.flower.stubs import write_script, write_stub
from cogen.flower.superexec_process import isolated, superexec_for
from cogen.flower.superlink import flower_environment
from cogen.node.home import Membership, NodeHome, write_private

REFUSAL = "echo 'refused: a domain runs the ClientApp of its own installation, and nothing else' >&2; exit 1"


def write_task_programs(home: NodeHome) -> Path:
    """Write what a SuperNode finds first in PATH for a task; returns the folder.

    The coordinator chooses the kind of a task, and each kind is a program of Flower's that unpacks and runs what it is
    sent. A domain needs `flwr-clientapp`, here a stub; the others are replaced by a program that refuses.
    """
    client, *others = TASK_PROGRAMS
    slow = [sys.executable, "-P", "-m", "cogen.flower.clientapp_process"]
    write_stub(home.programs / client, home.launcher_socket, slow, with_output=False)
    for name in others:
        write_script(home.programs / name, ["sh", "-c", REFUSAL])
    return home.programs


def programs_of(
    home: NodeHome, member: Membership, handle: int, say: Callable[[str], None], threads: int | None = None
) -> list[RestartedProgram]:
    """The four programs, the SuperNode last.

    Args:
        handle: descriptor of the folder's lock, held by each for as long as it lives.
        say: called with a line when one ends and when it is restarted.
        threads: that training may use; None leaves the number to torch.
    """
    import tomli_w

    settings = home.node_config
    write_private(settings, tomli_w.dumps({"socket": str(home.socket), "domain": member.domain}).encode())
    flower = flower_environment(home.flower)
    environment = {
        **flower,
        **MALLOC_ENVIRONMENT,
        "PATH": f"{write_task_programs(home)}{os.pathsep}{flower['PATH']}",
        APP_VARIABLE: member.app_sha256,
        HOME_VARIABLE: str(home.path),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    }
    counts = {} if threads is None else {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    python, logs = [sys.executable, "-P", "-m"], home.logs
    argv = [*python, "cogen.flower.supernode_process", "--superlink", member.address]
    argv += ["--root-certificates", str(home.ca), "--auth-supernode-private-key", str(home.key)]
    argv += ["--node-config", str(settings), "--host", HOST, "--port", PORT]
    argv += isolated(home.superexec_secret)
    trainer = [*python, "cogen.node.service", str(home.path)]
    app = [*python, "cogen.flower.clientapp_process", "--serve", str(home.launcher_socket)]
    node = RestartedProgram("the node", argv, logs / "supernode.log", environment, handle, say)
    at = ADDRESS, ["--insecure"], home.superexec_secret
    return [
        RestartedProgram("the trainer", trainer, logs / "trainer.log", {**os.environ, **counts}, handle, say),
        RestartedProgram("the app's launcher", app, logs / "clientapp.log", environment, handle, say),
        superexec_for(node, *at, environment, logs / "superexec.log", handle, say),
        node,
    ]


@contextmanager
def running(programs: Sequence[RestartedProgram]) -> Iterator[None]:
    """Start the programs; stop them all at the end of the block, whatever happens in it."""
    try:
        for program in programs:
            program.start()
        yield
    finally:
        stop_all(programs)
