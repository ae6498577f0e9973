"""What rounding an adapter for the wire costs in bits per byte: int8 as sent, and 4 bits by nearest or stochastic rounding.

    python benchmarks/wire.py --data grid=grid.jsonl --data clinical=clinical.jsonl ADAPTER ...

Each adapter is scored on the held-out text of every domain as it is, and as it arrives. 4 bits have one float scale a
direction, and values from -7 to 7. Prints one JSON object: the mean over domains by adapter and way, and the share of the
gain over the base that is left.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from cogen.adapter import Adapter, Factors
from cogen.base import load_base
from cogen.cli.options import named_paths
from cogen.data import heldout_windows
from cogen.evaluate.score import score_windows
from cogen.protocol.factors import through_wire
from cogen.train.corpus import prepare_corpus
from cogen.train.lora import attached
from cogen.versions import versions

SEQUENCE_LENGTH = 512
Model = Mapping[str, Factors]


def four_bits(factors: Model, drawn: torch.Generator | None) -> dict[str, Factors]:
    """Rounded to 15 values a direction; stochastic with a generator, else to the nearest."""
    return {n: Factors(_rounded(f.a, 1, drawn), _rounded(f.b, 0, drawn), f.scaling) for n, f in factors.items()}


def _rounded(side: torch.Tensor, along: int, drawn: torch.Generator | None) -> torch.Tensor:
    scale = side.abs().amax(dim=along, keepdim=True).clamp(min=1e-30) / 7
    noise = torch.full_like(side, 0.5) if drawn is None else torch.rand(side.shape, generator=drawn)
    return (side / scale + noise).floor().clamp(-7, 7) * scale


def main() -> int:
    """Score every adapter in every way and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", nargs="+", type=Path)
    parser.add_argument("--data", action="append", default=[], required=True, help="DOMAIN=PATH of a corpus")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--heldout-tokens", type=int, default=4096, help="of each domain; default: %(default)s")
    args = parser.parse_args()
    base = load_base(args.base, device="cpu", precision="float32")
    heldout = {}
    for name, path in named_paths(args.data, "--data").items():
        prepared = prepare_corpus(base, str(path))
        heldout[name] = heldout_windows(prepared.heldout, base.tokenizer, SEQUENCE_LENGTH, args.heldout_tokens)

    def mean(model: Model) -> float:
        with attached(base.model, model):
            found = [score_windows(base, w, "", d, lambda _: None).bits_per_byte for d, w in heldout.items()]
        return sum(found) / len(found)

    first = dict(Adapter.load(args.adapters[0]).factors)
    of_base = mean({n: Factors(f.a, torch.zeros_like(f.b), f.scaling) for n, f in first.items()})
    table: dict[str, dict[str, float]] = {}
    for folder in args.adapters:
        factors = dict(Adapter.load(folder).factors)
        ways: dict[str, Model] = {
            "float32": factors,
            "int8": through_wire(factors, "int8"),
            "4 bits, nearest": four_bits(factors, None),
            "4 bits, stochastic": four_bits(factors, torch.Generator().manual_seed(0)),
        }
        row = {way: mean(model) for way, model in ways.items()}
        gain = of_base - row["float32"]
        row |= {f"{way}: gain left": (of_base - row[way]) / gain for way in ways if way != "float32"}
        table[str(folder)] = row
        print(f"{folder}: {row}", file=sys.stderr, flush=True)
    print(json.dumps({"base": of_base, "bits_per_byte": table, "versions": versions()}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
