"""How long a simulation takes to its first training step, beside what Ray alone takes to start and answer.

    python benchmarks/start.py --repeats 3

Both in turns, each in processes of its own: `ray.init` on all cores with one actor that is called once, as Flower's
simulation does it; and `cogen simulate` on the quickstart's five domains with blocks of 64 tokens, until the first
step of any client is in its log (that step included), then it is stopped. Corpora are prepared before. Prints one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from cogen.versions import versions

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.toml"
PATIENCE_SECONDS = 300.0
SMALL = ("train.block_tokens=64", "train.tokens_per_round=64", "evaluate.round_heldout_tokens=0")
RAY = """
import ray
ray.init(include_dashboard=False, logging_level="ERROR")
@ray.remote
class Actor:
    def answer(self):
        return 1
print(ray.get(Actor.remote().answer.remote()), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    first_step()  # prepares the corpora
    found = [(ray_seconds(), first_step()) for _ in range(args.repeats)]
    ray, simulation = zip(*found, strict=True)
    more = [s - r for r, s in found]
    result: dict[str, Any] = {"ray_seconds": ray, "first_step_seconds": simulation, "median_more_seconds": median(more)}
    print(json.dumps({**result, "versions": versions()}, indent=2))


def ray_seconds() -> float:
    """From the start of a process to the answer of its first actor."""
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", RAY], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stdout.readline().strip() == b"1"
        return time.monotonic() - began


def first_step() -> float:
    """From the start of `cogen simulate` to the first line of a client's training log."""
    with tempfile.TemporaryDirectory(prefix="cogen-bench-") as place:
        run = Path(place) / "run"
        settings = [word for setting in SMALL for word in ("--set", setting)]
        command = [sys.executable, "-m", "cogen.cli.app", "simulate", str(CONFIG), "--out", str(run), *settings]
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not any(path.stat().st_size for path in run.glob("nodes/*/train.jsonl")):
                if process.poll() is not None or time.monotonic() - began > PATIENCE_SECONDS:
                    raise SystemExit("the simulation ended, or trained nothing in time")
                time.sleep(0.02)
            return time.monotonic() - began
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


if __name__ == "__main__":
    main()
