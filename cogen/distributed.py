"""How this process was started: alone, or by accelerate or torchrun as one of several that train together."""

from __future__ import annotations

import os
from dataclasses import dataclass

KEYS = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


@dataclass(frozen=True)
class ProcessRank:
    """This process among those that were started together.

    Args:
        index: from 0, over all machines; the first one writes and shows what all of them do.
        local_index: from 0, on this machine; its accelerator.
        count: processes on all machines.
    """

    index: int = 0
    local_index: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether it is the first of all."""
        return self.index == 0


def process_rank() -> ProcessRank:
    """As the launcher's environment has it; a process started by hand is alone."""
    if not all(os.environ.get(key, "").isdigit() for key in KEYS):
        return ProcessRank()
    return ProcessRank(*(int(os.environ[key]) for key in KEYS))
