"""The state of the server optimiser, kept in the folder of each round for a resumed run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from cogen.adapter import Factors
from cogen.files import write_file
from cogen.merge.server_step import ServerState

NAME = "server.safetensors"


def save_states(folder: Path, states: Mapping[str, ServerState]) -> None:
    """Write the states of all modules; an optimiser without state writes nothing."""
    tensors: dict[str, torch.Tensor] = {}
    for module, state in states.items():
        if state.momentum is not None:
            kept = (state.second, state.unit, float(state.num_steps), state.momentum.scaling)
            tensors[f"{module}.numbers"] = torch.tensor(kept, dtype=torch.float64)
            tensors[f"{module}.a"] = state.momentum.a.contiguous()
            tensors[f"{module}.b"] = state.momentum.b.contiguous()
    if tensors:
        write_file(folder / NAME, save(tensors, metadata={"format": "1"}))


def load_states(folder: Path) -> dict[str, ServerState]:
    """The states of a round by module; empty if it has none."""
    path = folder / NAME
    if not path.is_file():
        return {}
    tensors = load_file(path)
    states = {}
    for module in sorted({key.rpartition(".")[0] for key in tensors}):
        second, unit, steps, scaling = tensors[f"{module}.numbers"].tolist()
        momentum = Factors(tensors[f"{module}.a"], tensors[f"{module}.b"], scaling)
        states[module] = ServerState(momentum, second, unit, int(steps))
    return states
