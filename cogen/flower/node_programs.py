"""The programs that make a member: the resident trainer, the app's launcher, Flower's SuperNode."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from cogen.flower.launcher import write_launcher
from cogen.flower.memory import MALLOC_ENVIRONMENT
from cogen.flower.programs import Kept, order_end, stop_supervised
from cogen.flower.superlink import flower_environment, free_port
from cogen.node.home import Membership, NodeHome, write_private


def programs_of(
    home: NodeHome, member: Membership, handle: int, say: Callable[[str], None], threads: int | None = None
) -> list[Kept]:
    """The three programs, the SuperNode last.

    Args:
        handle: descriptor of the folder's lock, held by each for as long as it lives.
        say: told when one ends and is started again.
        threads: that training may use; None leaves it to torch.
    """
    import tomli_w

    settings = home.path / "node.toml"
    write_private(settings, tomli_w.dumps({"socket": str(home.socket), "domain": member.domain}).encode())
    flower = flower_environment(home.flower)
    first = write_launcher(home)
    environment = {
        **flower,
        **MALLOC_ENVIRONMENT,
        "PATH": f"{first}{os.pathsep}{flower['PATH']}",
        "COGEN_APP_SHA256": member.app_sha256,
        "COGEN_NODE_HOME": str(home.path),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    }
    counts = {} if threads is None else {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    python, logs = sys.executable, home.logs
    node = [python, "-m", "cogen.flower.supernode_process", "--superlink", member.address]
    node += ["--root-certificates", str(home.ca), "--auth-supernode-private-key", str(home.key)]
    node += ["--node-config", str(settings), "--host", "127.0.0.1", "--port", str(free_port(None))]
    trainer = [python, "-m", "cogen.node.service", str(home.path)]
    warm = [python, "-m", "cogen.flower.clientapp_process", "--serve", str(home.launcher_socket)]
    return [
        Kept("the trainer", trainer, logs / "trainer.log", {**os.environ, **counts}, handle, say),
        Kept("the app's launcher", warm, logs / "clientapp.log", environment, handle, say),
        Kept("the node", node, logs / "supernode.log", environment, handle, say),
    ]


@contextmanager
def running(programs: Sequence[Kept]) -> Iterator[None]:
    """Start the programs; end them all together, whatever happens in the block."""
    try:
        for program in programs:
            program.start()
        yield
    finally:
        guards = [program.guard for program in programs if program.guard is not None]
        for guard in guards:
            order_end(guard)
        for guard in guards:
            stop_supervised(guard)
