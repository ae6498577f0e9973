"""Merging methods by what they keep: bits per byte of every method on every domain, scale found by search.

    python benchmarks/merge_methods.py --expert grid=experts/grid --expert clinical=experts/clinical \\
        --data grid=grid.jsonl --data clinical=clinical.jsonl --json methods.json

Scales are searched on validation text, the table is of held-out text. `factor average` is the baseline
that averages A and B apart, as FedIT and FlowerTune's example do; `mean, scale 1` is not searched.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cogen.adapter import Adapter, Factors
from cogen.analysis import Candidate, propose, search
from cogen.analysis.bench import Bench, make_bench, open_adapters, read_validation
from cogen.cli.options import named_paths
from cogen.data import heldout_windows, read_corpus, split_documents
from cogen.errors import CogenError
from cogen.files import write_file
from cogen.merge import Rule, merge_adapters
from cogen.train.memory import tune_allocator
from cogen.versions import versions

METHODS = ("mean", "mean+pico", "ties:0.5", "ties:0.5+knots", "dare:0.5", "tsv_m", "tsv_m+pico", "iso_c")
FACTOR_AVERAGE, MEAN = "factor average", "mean, scale 1"
Made = Mapping[str, Factors]


def main() -> int:
    """Search, score, print; 2 for the user's mistake."""
    args = _arguments()
    tune_allocator()
    try:
        measure(args)
    except CogenError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def measure(args: argparse.Namespace) -> None:
    """All methods: the scale on validation text, then one row each on held-out text."""
    folders, data = named_paths(args.expert, "--expert"), named_paths(args.data, "--data")
    adapters = open_adapters(folders)
    documents = read_validation(data, args.heldout_frac, args.validation_frac)
    bench = make_bench(args.base, adapters, documents, args.search_tokens, args.sequence_length)
    base = bench.score(None)
    found: dict[str, dict[str, Any]] = {
        MEAN: {"scale": 1.0, "factors": merged(bench, Candidate(Rule(), _equal(bench)))}
    }
    for name in (FACTOR_AVERAGE, *args.methods):
        found[name] = best_scale(bench, base, name, args.budget)
    rows = scored(bench, found, data, args)
    print(table(rows, list(data)))
    if args.json:
        kept = {n: {k: v for k, v in f.items() if k != "factors"} for n, f in found.items()}
        values = {"format": 1, "rows": rows, "found": kept, "versions": versions(), "arguments": vars(args)}
        write_file(Path(args.json), json.dumps(values, indent=2, default=str).encode())


def best_scale(bench: Bench, base: Mapping[str, float], name: str, budget: int) -> dict[str, Any]:
    """The scale of least mean ratio to the base, and the factors at that scale."""
    make: Callable[[Bench, Candidate], Made] = averaged if name == FACTOR_AVERAGE else merged
    rule = propose("mean" if name == FACTOR_AVERAGE else name, len(bench.adapters))
    began, trials = time.monotonic(), []

    def score(candidate: Candidate) -> Mapping[str, float]:
        scores = bench.score(make(bench, candidate))
        trials.append({"scale": candidate.rule.scale, "bits_per_byte": scores})
        say(f"{name} at {candidate.rule.scale:g}: " + ", ".join(f"{d} {v:.4f}" for d, v in scores.items()))
        return scores

    result = search([rule], list(bench.adapters), base, score, budget=budget)
    equal = replace(result.chosen, weights=_equal(bench))  # a budget this small ends before the weights
    seconds = time.monotonic() - began
    return {"scale": equal.rule.scale, "factors": make(bench, equal), "trials": trials, "seconds": seconds}


def merged(bench: Bench, candidate: Candidate) -> Made:
    """A candidate, merged in memory."""
    made = merge_adapters(list(bench.adapters.values()), candidate.weights, **asdict(candidate.rule))
    return made.adapter.factors


def averaged(bench: Bench, candidate: Candidate) -> Made:
    """(1/K sum B_k) (1/K sum A_k), which is not the mean of B_k A_k; times the scale."""
    import torch

    adapters = [a.factors for a in bench.adapters.values()]
    made = {}
    for name in adapters[0]:
        parts = [a[name] for a in adapters]
        a, b = torch.stack([f.a for f in parts]).mean(dim=0), torch.stack([f.b for f in parts]).mean(dim=0)
        made[name] = Factors(a=a, b=b, scaling=parts[0].scaling * candidate.rule.scale)
    return made


def scored(
    bench: Bench, found: Mapping[str, Mapping[str, Any]], data: Mapping[str, str], args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Bits per byte of base, experts (each on its own domain) and methods on held-out text, and what is kept."""
    windows = {}
    for name, path in data.items():
        heldout = split_documents(read_corpus(path).documents, args.heldout_frac, path).heldout
        windows[name] = heldout_windows(heldout, bench.base.tokenizer, args.sequence_length, args.heldout_tokens)
    test = replace(bench, windows=windows)
    base = test.score(None)
    own = {d: replace(test, windows={d: windows[d]}).score(_factors(bench.adapters[d]))[d] for d in data}
    rows: dict[str, dict[str, Any]] = {"base": {"bits_per_byte": base}, "own expert": {"bits_per_byte": own}}
    for name, made in found.items():
        scores = test.score(made["factors"])
        say(f"held-out, {name}: " + ", ".join(f"{d} {v:.4f}" for d, v in scores.items()))
        kept = {d: (base[d] - scores[d]) / (base[d] - own[d]) for d in data}
        rows[name] = {"scale": made["scale"], "bits_per_byte": scores, "retained_gain": kept}
    return rows


def _factors(adapter: Adapter) -> Made:
    return dict(adapter.factors)


def _equal(bench: Bench) -> tuple[float, ...]:
    return (1.0 / len(bench.adapters),) * len(bench.adapters)


def table(rows: Mapping[str, Mapping[str, Any]], domains: Sequence[str]) -> str:
    """Markdown: one row a method."""
    head = ["method", "scale", *domains, "mean", "retained gain", "worst domain"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, row in rows.items():
        bpb, kept = row["bits_per_byte"], row.get("retained_gain")
        cells = [name, f"{row['scale']:.3g}" if "scale" in row else ""]
        cells += [f"{bpb[d]:.4f}" for d in domains] + [f"{sum(bpb.values()) / len(bpb):.4f}"]
        cells += [f"{sum(kept.values()) / len(kept):.1%}", _worst(kept)] if kept else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _worst(kept: Mapping[str, float]) -> str:
    name = min(kept, key=lambda d: kept[d])
    return f"{name} {kept[name]:.1%}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--expert", action="append", default=[], help="DOMAIN=FOLDER of an expert")
    parser.add_argument("--data", action="append", default=[], help="DOMAIN=PATH of a corpus, the experts' names")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="as `cogen merge --try` has them")
    parser.add_argument("--budget", type=int, default=5, help="scales tried for each method")
    parser.add_argument("--search-tokens", type=int, default=1024, help="validation tokens of each corpus and trial")
    parser.add_argument("--heldout-tokens", type=int, default=4096, help="of each corpus, in the table")
    parser.add_argument("--heldout-frac", type=float, default=0.05)
    parser.add_argument("--validation-frac", type=float, default=0.1)
    parser.add_argument("--sequence-length", type=int, default=512)
    parser.add_argument("--json", help="file to write, all trials included")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
