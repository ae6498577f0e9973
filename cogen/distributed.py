"""This process among those that accelerate or torchrun started to train together."""

from __future__ import annotations

import os
from dataclasses import dataclass

KEYS = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


@dataclass(frozen=True)
class ProcessRank:
    """The rank of this process.

    Args:
        index: from 0, over all machines; process 0 writes files and shows progress.
        local_index: from 0, on this machine; the number of its accelerator.
        count: processes on all machines.
    """

    index: int = 0
    local_index: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is process 0."""
        return self.index == 0


def process_rank() -> ProcessRank:
    """Read the rank from the environment of the launcher; a process started by hand is alone."""
    if not all(os.environ.get(key, "").isdigit() for key in KEYS):
        return ProcessRank()
    return ProcessRank(*(int(os.environ[key]) for key in KEYS))
