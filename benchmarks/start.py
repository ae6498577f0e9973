"""How long a simulation takes to its first training step, compared with the time in which Ray and Flower alone start and answer.

    python benchmarks/start.py --repeats 3

In turns, each in processes of its own: `ray.init` on all cores with one actor that is called once, as Flower's
simulation does it; an empty Flower app (no torch, no model) on a SuperLink of its own, until its first train message
is there; and `cogen simulate` on the quickstart's five domains with blocks of 64 tokens, until the first step of any
client is in its log (that step included), then it is stopped. Corpora are prepared before. Prints one JSON object.
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

from cogen.flower.superlink import connect, superlink
from cogen.flower.superlink_client import SuperLinkClient
from cogen.versions import versions

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.toml"
PATIENCE_SECONDS = 300.0
SMALL = ("train.sequence_length=64", "train.tokens_per_round=64", "evaluate.round_heldout_tokens=0")
RAY = """
import ray
ray.init(include_dashboard=False, logging_level="ERROR")
@ray.remote
class Actor:
    def answer(self):
        return 1
print(ray.get(Actor.remote().answer.remote()), flush=True)
"""
EMPTY = {
    "pyproject.toml": """
[project]
name = "empty"
version = "1.0.0"
[tool.flwr.app]
publisher = "nobody"
fab-include = ["empty.py"]
[tool.flwr.app.components]
serverapp = "empty:server"
clientapp = "empty:client"
[tool.flwr.app.config]
run = ""
""",
    "empty.py": """
import pathlib, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
server = ServerApp()
client = ClientApp()

@server.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 5:
        time.sleep(0.1)
    where = {"run": ConfigRecord({"run": context.run_config["run"]})}
    messages = [Message(RecordDict(where), message_type="train", dst_node_id=n) for n in nodes]
    list(grid.send_and_receive(messages))

@client.train()
def train(message, context):
    pathlib.Path(message.content["run"]["run"]).touch()
    return Message(RecordDict(), reply_to=message)
""",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    first_step()  # prepares the corpora
    found = [(ray_seconds(), flower_seconds(), first_step()) for _ in range(args.repeats)]
    ray, flower, simulation = zip(*found, strict=True)
    result: dict[str, Any] = {
        "ray_seconds": ray,
        "empty_flower_app_seconds": flower,
        "first_step_seconds": simulation,
        "median_more_than_ray_seconds": median(s - r for r, _, s in found),
        "median_more_than_flower_seconds": median(s - f for _, f, s in found),
    }
    print(json.dumps({**result, "versions": versions()}, indent=2))


def ray_seconds() -> float:
    """From the start of a process to the answer of its first actor."""
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", RAY], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stdout.readline().strip() == b"1"
        return time.monotonic() - began


def flower_seconds() -> float:
    """From the start of a SuperLink to an empty app's first train message, with five nodes, two at a time."""
    with tempfile.TemporaryDirectory(prefix="cogen-bench-") as folder:
        place = Path(folder)
        (place / "app").mkdir()
        for name, text in EMPTY.items():
            (place / "app" / name).write_text(text)
        nodes = "num-supernodes=5 client-resources-num-cpus=1 init-args-num-cpus=2"
        began = time.monotonic()
        connect(place / "home")
        with (
            open(place / "lock", "w") as lock,
            superlink(place / "home", place / "logs", lock.fileno()),
        ):
            SuperLinkClient(place / "home", place / "logs").submit(place / "app", str(place / "trained"), nodes)
            while not (place / "trained").exists():
                if time.monotonic() - began > PATIENCE_SECONDS:
                    raise SystemExit("Flower trained nothing in time")
                time.sleep(0.02)
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
