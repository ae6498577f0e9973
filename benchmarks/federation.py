"""What a round of a real federation costs besides training, and whether anything grows: coordinator and nodes on loopback.

    python benchmarks/federation.py --base made --rank 64 --rounds 20             # overhead: 5 MB of factors, answered at once
    python benchmarks/federation.py --rounds 5                                    # SmolLM2-135M, 4.9 MB of factors
    python benchmarks/federation.py --base FOLDER --rank 4 --rounds 100           # soak with a small base

Starts `cogen serve`, three `cogen join` and `cogen run` as their users do, each in a folder of its own. The overhead of a
round is its seconds less those of its slowest client, as each client measured them. Memory is the resident set of each
process (PSS where the system tells it), disk what the folders hold, CPU time with that of ended children; all after
rounds 1 and 10 and after the last. Of more than 25 rounds, memory is also looked at twice a second in rounds 6 to 15
and in the last ten, and the least and the median of these moments say whether it grows.
`--base made` is one layer of 1,024 with a vocabulary of 512, made here: it trains a block in no time, and at rank 64
its factors are as large as those of SmolLM2-135M at rank 4.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from footprint import cpu_seconds, disk, growth, is_watched, memory

from cogen.runs import RunFolder, read_lines
from cogen.versions import versions

SEEDS = Path(__file__).resolve().parents[1] / "seeds"
DOMAINS = ("clinical", "grid", "materials")
PATIENCE_SECONDS = 300.0
# Rounds of one block, many of them: what a domain allows by default is longer, and one round a run.
SHORT_ROUNDS = (
    "min_tokens_per_round = 0\nmin_documents = 0\nmin_tokens_per_step = 0\nmin_steps = 0\nfresh_starts = false\n"
    "max_rounds_per_day = 0\nmin_scored_tokens = 0\nmin_scored_documents = 0\n"
)
# What is held out is the domain's choice, and so is scoring it before and after each round.
NO_SCORES = "[heldout]\nheldout_frac = 0.15\nmax_heldout_tokens = 64\nround_heldout_tokens = 0\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--sequence-length", type=int, default=64)
    parser.add_argument("--nodes", type=int, default=3, choices=(1, 2, 3))
    parser.add_argument("--keep-rounds", type=int, help="federation.keep_rounds; all are kept without it")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="cogen-bench-") as place:
        print(json.dumps(measure(Path(place), args), indent=2))


def measure(place: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All rounds, then the figures."""
    if args.base == "made":
        args.base = make_base(place / "made")
    config = place / "bench.toml"
    config.write_text(_config(args))
    coordinator = place / "coordinator"
    coordinator.mkdir()
    address = f"localhost:{free_port()}"
    with ExitStack() as stack:
        serving = ["serve", config, "--public-address", address, "--bind", "127.0.0.1"]
        stack.enter_context(running(coordinator, *serving))
        wait(lambda: (coordinator / "federation/serve.json").is_file(), "serve")
        for domain in DOMAINS[: args.nodes]:
            invite = place / f"{domain}.invite"
            said(coordinator, "invite", domain, "--out", invite)
            home = place / domain
            (home / "home").mkdir(parents=True, mode=0o700)
            (home / "home/policy.toml").write_text(SHORT_ROUNDS)
            (home / "home/domain.toml").write_text(NO_SCORES)
            joining = [
                "join",
                invite,
                "--data",
                SEEDS / f"{domain}.jsonl",
                "--base",
                args.base,
                "--folder",
                home / "home",
            ]
            stack.enter_context(running(home, *joining))
        wait(lambda: said(coordinator, "nodes").count(" connected") == args.nodes, "nodes")
        samples = _run_rounds(place, coordinator, config, args.rounds)
    run = RunFolder(coordinator / "federation/runs/bench")
    return {
        "arguments": vars(args),
        "rounds": overheads(read_lines(run.events_path)),
        "samples": samples,
        "versions": versions(),
    }


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_base(folder: Path) -> str:
    """A base that costs nothing to train and yet has large factors; its folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=["<eos>"], initial_alphabet=alphabet)
    tokenizer.train([str(SEEDS / f"{domain}.jsonl") for domain in DOMAINS], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 1, "num_attention_heads": 16}
    config = LlamaConfig(vocab_size=512, **shape, max_position_embeddings=256, bos_token_id=0, eos_token_id=0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def overheads(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds of each round less those of its slowest client."""
    rounds = {e["round"]: e for e in events if e["event"] == "round_finished"}
    slowest = {
        n: max(e["seconds"] for e in events if e["event"] == "client_replied" and e["round"] == n) for n in rounds
    }
    found = [rounds[n]["seconds"] - slowest[n] for n in sorted(rounds)]
    bytes_up = rounds[1]["bytes_up"] / rounds[1]["num_valid"]
    later = found[1:] or found
    return {
        "bytes_up_each": bytes_up,
        "overhead_seconds": {"first": found[0], "median": median(later), "least": min(later), "most": max(later)},
        "training_seconds_median": median(slowest.values()),
    }


def _run_rounds(place: Path, coordinator: Path, config: Path, num_rounds: int) -> dict[str, Any]:
    """Run all rounds; memory and disk after rounds 1, 10 and the last, and memory over many moments of a long run."""
    run, samples = RunFolder(coordinator / "federation/runs/bench"), dict[int, Any]()
    moments: list[tuple[int, dict[str, float]]] = []
    with running(coordinator, "run", config) as process:
        while process.poll() is None:
            done = [e["round"] for e in read_lines(run.events_path) if e["event"] == "round_finished"]
            for mark in (1, min(10, num_rounds), num_rounds):
                if mark in done and mark not in samples:
                    samples[mark] = {"memory_mb": memory(), "disk_mb": disk(place), "cpu_seconds": cpu_seconds()}
            if is_watched(len(done) + 1, num_rounds) and len(done) < num_rounds:
                moments.append((len(done) + 1, memory()))
            time.sleep(0.5)
        if process.returncode:
            raise SystemExit(f"the run failed: see {coordinator}")
    return {**{f"round {mark}": sample for mark, sample in samples.items()}, "memory_growth": growth(moments)}


@contextmanager
def running(folder: Path, *args: object) -> Iterator[subprocess.Popen[bytes]]:
    """A command of cogen in a folder, ended as Ctrl-C would."""
    with open(folder / f"{args[0]}.log", "ab") as log:
        command = [sys.executable, "-m", "cogen.cli.app", *map(str, args)]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def said(folder: Path, *args: object) -> str:
    """What a command of cogen prints."""
    command = [sys.executable, "-m", "cogen.cli.app", *map(str, args)]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def wait(is_done: Callable[[], bool], what: str) -> None:
    """Until it is so.

    Raises:
        SystemExit: not within PATIENCE_SECONDS.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    while not is_done():
        if time.monotonic() > until:
            raise SystemExit(f"{what}: not ready within {PATIENCE_SECONDS:g} s")
        time.sleep(1.0)


def _config(args: argparse.Namespace) -> str:
    domains = "".join(f'[[domains]]\nname = "{d}"\n' for d in DOMAINS[: args.nodes])
    return (
        f'[base]\nname = "{args.base}"\n{domains}'
        f"[train]\ntokens_per_round = {args.sequence_length}\nsequence_length = {args.sequence_length}\nbatch_size = 1\n"
        f"rank = {args.rank}\n[federation]\nnum_rounds = {args.rounds}\n"
        f"{'' if args.keep_rounds is None else f'keep_rounds = {args.keep_rounds}'}\n"
        "[evaluate]\nheldout_frac = 0.15\nmax_heldout_tokens = 64\nround_heldout_tokens = 0\n"
    )


if __name__ == "__main__":
    main()
