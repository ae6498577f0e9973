"""Runs Flower's `flower-supernode` with the patches that it needs. A node that stops retrying ends, so that it is restarted.

Flower's own process goes on after that, kept alive by its HTTP server's thread, and asks for nothing.
"""

from __future__ import annotations

import os

from cogen.errors import log_error
from cogen.flower.memory import collect_often
from cogen.flower.patches import apply_or_exit

NEEDED = [
    "api_listens_at_socket",
    "supernode_task_programs",
    "supernode_retry",
    "supernode_sound_answers",
    "supernode_fitting_answers",
    "supernode_heartbeat",
    "supernode_reply_soon",
    "supernode_short_log",
]


def main() -> None:
    """`python -m cogen.flower.supernode_process ARGS`, the arguments of `flower-supernode`."""
    apply_or_exit(*NEEDED)
    import flwr.supernode.main  # noqa: F401  - Flower imports it when it starts; here it is frozen too
    from flwr.supernode.cli import flower_supernode

    collect_often()
    try:
        flower_supernode()
    except Exception:  # noqa: BLE001 - a SystemExit passes
        log_error()
    os._exit(1)  # Flower writes an error into its log and returns


if __name__ == "__main__":
    main()
