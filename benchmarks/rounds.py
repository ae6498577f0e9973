"""Variants of the server's step on the same real rounds: what each leaves in bits per byte and in energy.

    python benchmarks/rounds.py --data grid=grid.jsonl --data clinical=clinical.jsonl \\
        --variants keep,turn,reset,momentum,nesterov --json rounds.json
    python benchmarks/rounds.py --data a=a.jsonl --data b=b.jsonl --data c=c.jsonl --data d=d.jsonl \\
        --ranks 4,4,4,16 --variants keep,whole

The clients' trainer and the server's aggregation are the ones of a run, called in this process without
Flower. `whole` averages whole adapters, as FlexLoRA does: a client of lower rank gets the cut of the
global adapter at its rank, and the mean of what comes back replaces the global adapter.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cogen.adapter import Factors
from cogen.base import describe_base
from cogen.cli.options import named_paths
from cogen.config import Domain, RunConfig, load_config
from cogen.errors import CogenError
from cogen.files import write_file
from cogen.merge import compress, leading, revive, stack
from cogen.node.domain_settings import settings_of_run
from cogen.node.trainer import Trainer
from cogen.protocol.messages import Figures
from cogen.protocol.settings import work_settings
from cogen.runs import RunFolder
from cogen.train.lora import module_seed
from cogen.train.memory import tune_allocator
from cogen.versions import versions
from server.aggregate import aggregate, first_global
from server.replies import ClientUpdate

UNTURNED = "federation.align_factors=false"
MOMENTUM = ("federation.server_optimizer=momentum", "federation.server_momentum=0.5")
NESTEROV = (
    "federation.server_optimizer=nesterov",
    "federation.server_momentum=0.9",
    "federation.server_learning_rate=0.7",
)
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "keep": (UNTURNED,),
    "reset": (UNTURNED, "federation.optimizer_across_rounds=reset"),
    "momentum": (UNTURNED, *MOMENTUM),
    "nesterov": (UNTURNED, *NESTEROV),
    "tsv_m": (UNTURNED, "federation.method=tsv_m"),
    "turn": (),
    "turn+nesterov": NESTEROV,
    "turn+tsv_m": ("federation.method=tsv_m",),
    "whole": (UNTURNED,),
}
Globals = dict[str, Factors]


def main() -> int:
    """Run every variant, print the table; 2 for the user's mistake."""
    args = _arguments()
    tune_allocator()
    try:
        data = named_paths(args.data, "--data")
        with tempfile.TemporaryDirectory(prefix="cogen-rounds-") as work:
            found = {name: run(name, Path(work, f"run-{i}"), data, args) for i, name in enumerate(args.variants)}
    except CogenError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(found, list(data)))
    if args.json:
        values = {"format": 1, "variants": found, "versions": versions(), "arguments": vars(args)}
        write_file(Path(args.json), json.dumps(values, indent=2, default=str).encode())
    return 0


def run(name: str, folder: Path, data: Mapping[str, str], args: argparse.Namespace) -> dict[str, Any]:
    """All rounds of one variant, then bits per byte of base and combined on every held-out part."""
    source = folder.with_suffix(".toml")
    write_file(source, _toml(data, args).encode())
    config = load_config(source, ("federation.method=mean", *VARIANTS[name]))
    run = RunFolder(folder)
    run.create(config.to_toml())
    trainers = {d.name: _trainer(config, d, run) for d in config.domains}
    now, states = first_global(describe_base(config.base.name), config), None
    rounds = []
    for number in range(1, args.rounds + 1):
        began = time.monotonic()
        replies = [_reply(trainers[d.name], name, d.name, number, now, config.rank_of(d)) for d in config.domains]
        if name == "whole":
            now = averaged(now, replies, config, number)
        else:
            result = aggregate(config, now, replies, number, states)
            now, states = result.factors, result.states
        energy, beyond = energy_beyond(now, min(config.rank_of(d) for d in config.domains))
        rounds.append({"energy": energy, "beyond": beyond, "seconds": time.monotonic() - began})
        say(f"{name}, round {number}: energy {energy:.4g}, beyond the lowest rank {beyond:.2%}")
    cells = {d: {m: c.bits_per_byte for m, c in trainers[d].evaluate({"combined": now}).items()} for d in data}
    say(f"{name}: " + ", ".join(f"{d} {c['base']:.4f} -> {c['combined']:.4f}" for d, c in cells.items()))
    return {"rounds": rounds, "bits_per_byte": cells}


def _trainer(config: RunConfig, domain: Domain, run: RunFolder) -> Trainer:
    folder = run.node(domain.name)
    asked, own = work_settings(config, domain), settings_of_run(config)
    return Trainer(asked, own, domain.name, str(domain.data), config.base.name, folder)


def _reply(trainer: Trainer, variant: str, domain: str, number: int, now: Globals, rank: int) -> ClientUpdate:
    start = {n: leading(f, rank)[0] for n, f in now.items()} if variant == "whole" else now
    made = trainer.train(number, start)
    return ClientUpdate(domain, made.factors, Figures(num_tokens=made.num_tokens, seconds=made.seconds), 0)


def averaged(now: Globals, replies: list[ClientUpdate], config: RunConfig, number: int) -> Globals:
    """The mean of whole adapters, cut to the server's rank (FlexLoRA, arXiv 2402.11505)."""
    import torch

    factors = {}
    for name, f in now.items():
        parts, rank = [r.factors[name] for r in replies], min(config.server_rank, *f.shape)
        made = compress(stack(parts, [1 / len(parts)] * len(parts)), rank, f.scaling).factors
        seed = module_seed(config.train.seed + number, name)
        factors[name] = revive(made, rank, torch.Generator().manual_seed(seed))
    return factors


def energy_beyond(factors: Mapping[str, Factors], rank: int) -> tuple[float, float]:
    """sum sigma^2 of all modules, and the share of it beyond the first `rank` directions of each."""
    whole = beyond = 0.0
    for f in factors.values():
        squares = compress(f, None).singular_values.double().square()
        whole, beyond = whole + float(squares.sum()), beyond + float(squares[rank:].sum())
    return whole, beyond / whole if whole else 0.0


def table(found: Mapping[str, Mapping[str, Any]], domains: list[str]) -> str:
    """Markdown: bits per byte by variant, then the energy beyond the lowest rank by round."""
    first = next(iter(found.values()))
    lines = [f"| | {' | '.join(domains)} | mean |", "|---" * (len(domains) + 2) + "|"]
    rows = [("base", [first["bits_per_byte"][d]["base"] for d in domains])]
    rows += [(name, [f["bits_per_byte"][d]["combined"] for d in domains]) for name, f in found.items()]
    for name, bits in rows:
        lines.append(f"| {name} | {' | '.join(f'{b:.4f}' for b in [*bits, sum(bits) / len(bits)])} |")
    numbers = range(1, len(first["rounds"]) + 1)
    lines += ["", f"| energy, beyond the lowest rank | {' | '.join(f'round {i}' for i in numbers)} |"]
    lines.append("|---" * (len(numbers) + 1) + "|")
    for name, f in found.items():
        cells = [f"{r['energy']:.3g}, {r['beyond']:.2%}" for r in f["rounds"]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _toml(data: Mapping[str, str], args: argparse.Namespace) -> str:
    ranks = args.ranks or [args.rank] * len(data)
    lines = [
        "[base]",
        f"name = {json.dumps(args.base)}",
        f'precision = "{args.precision}"',
        "[train]",
        f"tokens_per_round = {args.tokens}",
    ]
    lines += [f"rank = {max(ranks)}", f"sequence_length = {args.sequence_length}", f"batch_size = {args.batch_size}"]
    lines += [f"seed = {args.seed}", "[federation]", f"num_rounds = {args.rounds}"]
    lines += ["[evaluate]", "round_heldout_tokens = 0", f"max_heldout_tokens = {args.heldout_tokens}"]
    for (name, path), rank in zip(data.items(), ranks, strict=True):
        lines += ["[[domains]]", f"name = {json.dumps(name)}", f"data = {json.dumps(str(Path(path).resolve()))}"]
        lines += [f"rank = {rank}"]
    return "\n".join(lines) + "\n"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", action="append", default=[], required=True, help="DOMAIN=PATH of a corpus; one client each")
    add("--variants", type=_variants, default="keep,turn,reset,momentum,nesterov", help="default: %(default)s")
    add("--base", default="smollm2-135m")
    add("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    add("--rounds", type=int, default=5)
    add("--tokens", type=int, default=2048, help="of each client and round; default: %(default)s")
    add("--rank", type=int, default=16, help="of every client; default: %(default)s")
    add("--ranks", type=lambda text: [int(r) for r in text.split(",")], help="one rank a client, as in 4,4,4,16")
    add("--sequence-length", type=int, default=512)
    add("--batch-size", type=int, default=1, help="of an optimiser step; default: %(default)s")
    add("--heldout-tokens", type=int, default=4096, help="of each corpus, in the table; default: %(default)s")
    add("--seed", type=int, default=0)
    add("--json", help="file to write, every round included")
    args = parser.parse_args()
    if args.ranks and len(args.ranks) != len(args.data):
        parser.error(f"expected {len(args.data)} ranks, one for each --data, got {len(args.ranks)}")
    return args


def _variants(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in VARIANTS]:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(VARIANTS)}, got {unknown[0]!r}")
    return names


if __name__ == "__main__":
    sys.exit(main())
