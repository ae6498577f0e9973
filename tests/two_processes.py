"""Two processes that train one adapter: `launch` starts each with `python -m tests.two_processes BASE OUT DEVICE`.

Each case of `CASES` is trained once more in one process by the test that started this.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from cogen.base import Base, load_base
from cogen.config import Train
from cogen.distributed import process_rank
from cogen.train.loop import Step
from cogen.train.single import TrainedAdapter, train_adapter

ROOT = Path(__file__).parent.parent
SEEDS = ROOT / "seeds"
# Seven blocks in steps of three: shares of one and two blocks, and none and one in the last step.
SHORT = Train(
    tokens_per_round=448,
    sequence_length=64,
    batch_size=3,
    learning_rate=0.01,
    rank=4,
    max_grad_norm=0.1,  # below the gradient of any step, so that clipping acts
    cpu_kernels="off",
    checkpoint_seconds=1e-9,
)
CASES = {
    "plain": SHORT,
    "parts": SHORT.model_copy(update={"gradient_accumulation_steps": 2, "train_embeddings": True}),
    "fast": SHORT.model_copy(update={"cpu_kernels": "fused"}),
    "early": SHORT.model_copy(update={"early_stop_patience": 1, "early_stop_every": 1, "early_stop_frac": 0.2}),
}


def launch(*arguments: object) -> list[tuple[int, str, str]]:
    """Start two processes as `accelerate launch` does; exit code, stdout and stderr of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)],
            env={**os.environ, **shared, "RANK": str(i), "LOCAL_RANK": str(i), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        said = [child.communicate(timeout=240) for child in children]
    finally:
        for child in children:
            child.kill()
    return [(child.returncode, *texts) for child, texts in zip(children, said, strict=True)]


def train(base: Base, settings: Train, **options: Any) -> TrainedAdapter:
    """Train one case in this process."""
    return train_adapter(base, {"grid": SEEDS / "grid.jsonl"}, settings, domain="grid", heldout_frac=0.15, **options)


def main(base_name: str, out: Path, device: str) -> None:
    """Train every case, and the first one once more from the state after its first step.

    Args:
        device: "cpu", or "own": the process's own accelerator.
    """
    index = process_rank().index
    base = load_base(base_name, device=None if device == "own" else device, precision="float32")
    state, copies = out / "state", (out / "state-of-step-1", out / "state-to-resume")
    called: list[int] = []

    def on_step(step: Step) -> None:
        called.append(step.step)
        if step.step == 2:
            for copy in copies:
                shutil.copy(state, copy)

    said = {}
    for name, settings in CASES.items():
        options = {"on_step": on_step, "state_path": state} if name == "plain" else {}
        said[name] = _kept(train(base, settings, **options), out / f"{name}-{index}")
    said["resumed"] = _kept(train(base, SHORT, state_path=copies[1], resume=True), out / f"resumed-{index}")
    (out / f"said-{index}.json").write_text(json.dumps({**said, "called": called}))


def _kept(made: TrainedAdapter, folder: Path) -> dict[str, Any]:
    made.adapter.save(folder)
    best = made.result.best
    return {"loss_nats": made.result.loss_nats, "best": None if best is None else [best.step, best.bits_per_byte]}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
