"""What a routed model costs at the first token: the gate's pass, another expert's coming on, against one adapter.

    python benchmarks/routed.py routed --text grid.jsonl

For prompts of several lengths, from the text: seconds until the first token of the reply is chosen, with one adapter
attached ("dense"), with the gate asked first and the expert attached already ("same"), and with the gate asked first and
all experts attached, of which another one worked before ("other"). In turns, the median of `--repeats`; then tokens per second behind the first
token, which are the same for both, and the memory of the process. Prints one JSON object; run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from cogen.base import Base, load_base
from cogen.data import read_corpus
from cogen.evaluate.generate import gate_ids, prompt_ids, stream
from cogen.routing.choose import choose
from cogen.routing.folder import COMMON, RoutedModel
from cogen.train.lora import attached, attached_all
from cogen.train.memory import peak_memory_bytes, tune_allocator
from cogen.versions import versions

LENGTHS = (16, 64, 256, 512, 1024)


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("routed", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    tune_allocator()
    routed = RoutedModel.open(args.routed)
    base = load_base(routed.manifest.base)
    text = "\n".join(d.text for d in read_corpus(str(args.text)).documents[:8])
    rows = [row(base, routed, text, length, args.repeats) for length in LENGTHS]
    found = {"rows": rows, "tokens_per_second": rate(base, routed, text), "peak_memory_bytes": peak_memory_bytes()}
    print(json.dumps({**found, "versions": versions()}, indent=1))
    return 0


def row(base: Base, routed: RoutedModel, text: str, length: int, repeats: int) -> dict[str, Any]:
    """Seconds to the first token for a prompt of `length` tokens."""
    prompt = base.tokenizer.decode(prompt_ids(base.tokenizer, text)[:length])
    factors = {name: dict(adapter.factors) for name, adapter in routed.opened.items()}
    seconds: dict[str, list[float]] = {"dense": [], "same": [], "other": []}
    for _ in range(repeats):
        with attached(base.model, factors[COMMON]):
            seconds["dense"].append(first_token(base, prompt))
        chosen = choose(base, routed, gate_ids(base, prompt)).expert
        with attached(base.model, factors[chosen]):
            began = time.perf_counter()
            choose(base, routed, gate_ids(base, prompt))
            first_token(base, prompt)
            seconds["same"].append(time.perf_counter() - began)
        with attached_all(base.model, factors) as use:
            use(COMMON)
            began = time.perf_counter()
            use(choose(base, routed, gate_ids(base, prompt)).expert)
            first_token(base, prompt)
            seconds["other"].append(time.perf_counter() - began)
    medians = {name: statistics.median(some) for name, some in seconds.items()}
    ratios = {f"{name}_ratio": round(medians[name] / medians["dense"], 2) for name in ("same", "other")}
    found = {"prompt_tokens": length, **{name: round(value, 4) for name, value in medians.items()}, **ratios}
    print(found, file=sys.stderr, flush=True)
    return found


def first_token(base: Base, prompt: str) -> float:
    """Seconds until the first token is there."""
    began = time.perf_counter()
    next(stream(base, prompt, 1), None)
    return time.perf_counter() - began


def rate(base: Base, routed: RoutedModel, text: str, num_tokens: int = 64) -> float:
    """Tokens per second of one adapter behind the first token."""
    prompt = base.tokenizer.decode(prompt_ids(base.tokenizer, text)[:64])
    with attached(base.model, dict(routed.opened[COMMON].factors)):
        one = first_token(base, prompt)
        began = time.perf_counter()
        for _ in stream(base, prompt, num_tokens):
            pass
    return round((num_tokens - 1) / (time.perf_counter() - began - one), 1)


if __name__ == "__main__":
    sys.exit(main())
