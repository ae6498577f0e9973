"""Seconds until `cogen train` is as good as Trainer + PEFT after all of its tokens.

    python benchmarks/time_to_quality.py --data grid.jsonl --tokens 60000

Trainer + PEFT trains first, by the recipe of train.py ("padded": float32, a document a row, four rows a step, 2e-4, cosine).
Its bits per byte at the end, on held-out text, are the target. Then CO-GEN trains with the defaults of `[train]` on ever more
tokens, each time from the start with a whole schedule, until it gets there. Seconds are those of training with its
preparation, without loading the base. Each run is a process of its own, one after the other; run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import train


def main() -> int:
    """Run both sides and print one JSON object; progress on stderr."""
    args = _arguments()
    if args.job:
        print(json.dumps(_job(args.job, args)))
        return 0
    target = _measured("padded", args.tokens, args)
    budgets = [b for b in args.budgets if b <= args.tokens]
    runs: list[dict[str, Any]] = []
    for budget in budgets:
        runs.append(_measured("ours", budget, args))
        if runs[-1]["bits_per_byte"] <= target["bits_per_byte"]:
            break
    reached = runs[-1]["bits_per_byte"] <= target["bits_per_byte"]
    ratio = round(target["seconds"] / runs[-1]["seconds"], 2) if reached else None
    found = {"data": Path(args.data).name, "times_faster": ratio, "trainer": target, "ours": runs}
    print(json.dumps(found, indent=1))
    return 0


def _measured(job: str, num_tokens: int, args: argparse.Namespace) -> dict[str, Any]:
    return train.job_in_process(__file__, job, args.threads, base=args.base, data=args.data, tokens=num_tokens)


def _job(job: str, args: argparse.Namespace) -> dict[str, Any]:
    if job == "ours":
        from cogen.train.memory import tune_allocator

        tune_allocator()
    import torch

    torch.set_num_threads(args.threads)
    from cogen.base import load_base
    from cogen.data import heldout_windows
    from cogen.evaluate.score import score_windows
    from cogen.train.corpus import prepare_corpus
    from cogen.train.lora import attached

    base = load_base(args.base, device="cpu", precision="auto" if job == "ours" else "float32")
    prepared = prepare_corpus(base, args.data)
    documents = [prepared.train[i] for i in range(len(prepared.train))]
    began = time.perf_counter()
    if job == "ours":
        ends, factors = train.train_with_cogen(base, documents, args.tokens)
    else:
        ends, factors = train.train_with_trainer(job, base, documents, args.tokens)
    seconds = ends[-1][1] - began
    exact = load_base(args.base, device="cpu", precision="float32")
    windows = heldout_windows(prepared.heldout, exact.tokenizer, train.SEQUENCE_LENGTH, train.HELDOUT_TOKENS)
    found: dict[str, Any] = {"num_tokens": ends[-1][0], "num_steps": len(ends), "seconds": round(seconds, 1)}
    if job != "ours":
        found["base_bits_per_byte"] = score_windows(exact, windows, "base", "heldout").bits_per_byte
    with attached(exact.model, factors):
        return found | {"bits_per_byte": score_windows(exact, windows, job, "heldout").bits_per_byte}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--base", default="smollm2-135m")
    add(
        "--data",
        default=str(Path(__file__).resolve().parent.parent / "seeds/grid.jsonl"),
        help="default: a seed corpus",
    )
    add("--tokens", type=int, default=60_000, help="of text that Trainer trains; default: %(default)s")
    add(
        "--budgets",
        type=lambda text: [int(t) for t in text.split(",")],
        default=[4096, 6144, 8192, 12_288, 16_384, 24_576, 32_768, 49_152, 65_536],
        help="tokens that CO-GEN tries; default: %(default)s",
    )
    add("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="default: %(default)s")
    add("--job", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
