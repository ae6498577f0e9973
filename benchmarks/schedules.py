"""What a schedule of the same tokens leaves in bits per byte: alone, merged once, rounds side by side, relay, rotation, one place.

    python benchmarks/schedules.py --data a=a.jsonl --data b=b.jsonl --tokens 15360 own merged relay:1 relay:3 central
    python benchmarks/schedules.py --data a=a.jsonl --tokens 15360 --learning-rate 1e-3 --beta2 0.99 own

Schedules, each from fresh factors, with one learning-rate schedule over all its steps:

    own              every domain alone on its own text
    merged[:METHOD[:SCALE]]  the experts of `own`, combined once; by TSV-M at scale 1
    central          one adapter, a block of each domain in turn
    central:K        the same with K blocks a step, and so as many steps as one expert has with one
    relay:C[:M]      the adapter visits the domains in turn, C times each; Adam's moments M are kept (at each domain, for its
                     next visit), reset at each visit, or travel with the adapter
    averaged:C[:M]   the same relay, and the mean of the adapters that the visits of its last cycle left
    tails:C:FRAC:RATE  the same relay on the text without its last FRAC, then every domain alone from there on that rest, at
                     a rate that falls from RATE to 0; each domain is scored with its own tail
    parallel:R:V     R rounds side by side; V is tsv_m, mean, nesterov or momentum
    rotation:C:E[:M] K adapters, each at another domain, moved on after every visit of C a domain; their mean every E visits;
                     moments M travel or are kept
    groups:G[:METHOD[:SCALE]]  a relay of one visit a domain in each of G groups side by side, their adapters combined once

The trainer's loop and the server's aggregation are those of a run, called in this process without Flower. Every block of a
domain is trained once. Prints one JSON object; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from cogen.adapter import Adapter, Factors
from cogen.base import Base, describe_base, load_base
from cogen.cli.options import named_paths
from cogen.config import RunConfig, load_config
from cogen.data import heldout_windows
from cogen.data.pack import InterleavedStream, Stream
from cogen.evaluate.score import score_windows
from cogen.node.domain_settings import settings_of_run
from cogen.node.trainer import Trainer
from cogen.protocol.messages import Figures
from cogen.protocol.settings import work_settings
from cogen.runs import RunFolder
from cogen.train.loop import train_round
from cogen.train.lora import attached
from cogen.train.memory import tune_allocator
from cogen.train.schedule import RoundPlan
from cogen.train.state import TrainState
from cogen.versions import versions
from server.aggregate import aggregate, first_global
from server.replies import ClientUpdate

WINDOW_TOKENS = 512  # of held-out text, whatever the training blocks have
Model = Mapping[str, Factors]
PARALLEL: Mapping[str, tuple[str, ...]] = {
    "tsv_m": ("federation.method=tsv_m",),
    "mean": ("federation.method=mean",),
    "nesterov": (
        "federation.method=mean",
        "federation.server_optimizer=nesterov",
        "federation.server_momentum=0.9",
        "federation.server_learning_rate=0.7",
    ),
    "momentum": ("federation.method=mean", "federation.server_optimizer=momentum", "federation.server_momentum=0.5"),
}


@dataclass
class Work:
    """The base, the domains' text, and where training stands."""

    base: Base
    config: RunConfig
    streams: Mapping[str, Stream]
    heldout: Mapping[str, Sequence[Any]]
    num_blocks: int
    save: Path | None = None
    relays: dict[tuple[Any, ...], list[Model]] = field(default_factory=dict)

    @property
    def domains(self) -> list[str]:
        return list(self.streams)

    def fresh(self) -> dict[str, Factors]:
        """The factors from which every schedule starts."""
        return first_global(describe_base(self.config.base.name), self.config)

    def train(
        self,
        start: Model,
        stream: Stream,
        blocks: tuple[int, int],
        steps: tuple[int, int],
        moments: TrainState | None = None,
        batch_size: int = 0,
    ) -> tuple[dict[str, Factors], TrainState]:
        """Blocks `blocks[0]` to `blocks[1]` of a stream, from step `steps[0]` of `steps[1]` in all."""
        size = batch_size or self.config.train.batch_size
        count = blocks[1] - blocks[0]
        plan = RoundPlan(1, blocks[0], count, steps[0], -(-count // size), steps[1], size, blocks[1])
        settings = self.config.train.model_copy(update={"batch_size": size})
        result = train_round(self.base, start, stream, plan, settings, state=moments)
        return result.factors, TrainState(result.state.moments)

    def scores(self, model: Model, domains: Sequence[str] = ()) -> dict[str, float]:
        """Bits per byte of a model on the held-out windows of some domains, or of all."""
        chosen = {d: w for d, w in self.heldout.items() if not domains or d in domains}
        with attached(self.base.model, model):
            return {d: score_windows(self.base, w, "", d, lambda _: None).bits_per_byte for d, w in chosen.items()}

    def base_scores(self) -> dict[str, float]:
        return {d: score_windows(self.base, w, "", d, lambda _: None).bits_per_byte for d, w in self.heldout.items()}


def own(work: Work) -> dict[str, dict[str, Factors]]:
    """Every domain's expert."""
    total = -(-work.num_blocks // work.config.train.batch_size)
    return {d: work.train(work.fresh(), s, (0, work.num_blocks), (0, total))[0] for d, s in work.streams.items()}


def central(work: Work, blocks_a_step: int = 0) -> Model:
    """One adapter on all text."""
    stream, num_blocks = InterleavedStream(list(work.streams.values())), work.num_blocks * len(work.streams)
    size = blocks_a_step or work.config.train.batch_size
    return work.train(work.fresh(), stream, (0, num_blocks), (0, -(-num_blocks // size)), None, size)[0]


def visits(work: Work, cycles: int) -> list[tuple[int, int]]:
    """The blocks of each of a domain's visits."""
    edges = [round(i * work.num_blocks / cycles) for i in range(cycles + 1)]
    return list(pairwise(edges))


def order_of(work: Work, cycle: int) -> list[str]:
    return random.Random(work.config.train.seed + cycle).sample(sorted(work.domains), len(work.domains))


def relay(work: Work, cycles: int, moments: str = "keep", among: Sequence[str] = ()) -> Model:
    """One adapter, which visits the domains (or those of `among`) in turn, in a new random order each cycle."""
    return relay_visits(work, cycles, moments, among)[-1]


def relay_visits(work: Work, cycles: int, moments: str = "keep", among: Sequence[str] = ()) -> list[Model]:
    """What the visits of the last cycle of a relay left. A relay that ran before is not run again."""
    key = (cycles, moments, tuple(among), work.num_blocks)
    if key in work.relays:
        return work.relays[key]
    size, now = work.config.train.batch_size, dict(work.fresh())
    plan, visited = visits(work, cycles), among or work.domains
    total = len(visited) * sum(-(-(b - a) // size) for a, b in plan)
    done, kept, travelling = 0, dict[str, TrainState](), None
    left: list[Model] = []
    for cycle, blocks in enumerate(plan):
        left = []
        for domain in (d for d in order_of(work, cycle) if d in visited):
            state = {"keep": kept.get(domain), "reset": None, "travel": travelling}[moments]
            now, state = work.train(now, work.streams[domain], blocks, (done, total), state)
            kept[domain] = travelling = state
            done += -(-(blocks[1] - blocks[0]) // size)
            left.append(now)
    work.relays[key] = left
    return left


def averaged(work: Work, cycles: int, moments: str = "keep") -> Model:
    """The mean of the adapters that the visits of a relay's last cycle left."""
    left = relay_visits(work, cycles, moments)
    return combined(work, dict(zip(order_of(work, cycles - 1), left, strict=True)), "mean")


def tails(work: Work, cycles: int, frac: float, rate: float) -> dict[str, Model]:
    """The common model of a relay (`common`), and what each domain makes of it with the last part of its text."""
    num_tail = round(frac * work.num_blocks)
    start = work.num_blocks - num_tail
    common = relay(replace(work, num_blocks=start), cycles)
    schedule = {"learning_rate": rate, "warmup_frac": 0.0, "min_lr_ratio": 0.0}
    alone = replace(
        work, config=work.config.model_copy(update={"train": work.config.train.model_copy(update=schedule)})
    )
    steps = -(-num_tail // work.config.train.batch_size)
    made = {
        d: alone.train(common, stream, (start, work.num_blocks), (0, steps))[0] for d, stream in work.streams.items()
    }
    return {"common": common, **made}


def groups(work: Work, num_groups: int, method: str = "tsv_m", scale: str = "1") -> Model:
    """A relay in each group; the groups' adapters are combined once."""
    order = order_of(work, 0)
    made = {g[0]: relay(work, 1, among=g) for g in (order[i::num_groups] for i in range(num_groups))}
    return combined(work, made, method, scale)


def combined(work: Work, made: Mapping[str, Model], method: str = "tsv_m", scale: str = "1") -> Model:
    """Adapters that were trained side by side, as a server combines them after one round."""
    replies = [ClientUpdate(name, dict(m), Figures(num_tokens=1), 0) for name, m in made.items()]
    rules = (f"federation.method={method}", f"federation.server_learning_rate={scale}")
    return aggregate(load_config_of(work, rules), work.fresh(), replies, 1, None).factors


def parallel(work: Work, rounds: int, rule: str) -> Model:
    """Rounds side by side, aggregated as a server does; moments stay at each domain."""
    config = load_config_of(work, PARALLEL[rule])
    size, now, states = config.train.batch_size, dict(work.fresh()), None
    plan = visits(work, rounds)
    total, done, kept = sum(-(-(b - a) // size) for a, b in plan), 0, dict[str, TrainState]()
    for number, blocks in enumerate(plan, 1):
        replies = []
        for domain, stream in work.streams.items():
            factors, kept[domain] = work.train(now, stream, blocks, (done, total), kept.get(domain))
            replies.append(ClientUpdate(domain, factors, Figures(num_tokens=1), 0))
        result = aggregate(config, now, replies, number, states)
        now, states = result.factors, result.states
        done += -(-(blocks[1] - blocks[0]) // size)
    return now


def rotation(work: Work, cycles: int, average_every: int, moments: str = "travel") -> Model:
    """K adapters, each at another domain; after a visit each moves on, and now and then all become their mean.

    Adapter i makes visit v at domain (i + v) mod K of the cycle's order, so every domain trains one adapter at a time.
    """
    config = load_config_of(work, PARALLEL["mean"])
    size, order = config.train.batch_size, order_of(work, 0)
    count, plan = len(order), visits(work, cycles * len(order))
    start = work.fresh()
    now: list[Model] = [start] * count
    total, done = sum(-(-(b - a) // size) for a, b in plan), 0
    states: dict[str | int, TrainState] = {}
    for visit, blocks in enumerate(plan):
        for i in range(count):
            domain = order[(i + visit) % count]
            key = i if moments == "travel" else domain
            now[i], states[key] = work.train(now[i], work.streams[domain], blocks, (done, total), states.get(key))
        done += -(-(blocks[1] - blocks[0]) // size)
        if (visit + 1) % average_every == 0 or visit + 1 == len(plan):
            replies = [ClientUpdate(d, dict(m), Figures(num_tokens=1), 0) for d, m in zip(order, now, strict=True)]
            start = aggregate(config, start, replies, visit + 1, None).factors
            now = [start] * count
    return start


def load_config_of(work: Work, overrides: Sequence[str]) -> RunConfig:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "c.toml")
        path.write_text(work.config.to_toml())
        return load_config(path, list(overrides))


def run(name: str, work: Work, experts: dict[str, Any]) -> dict[str, float]:
    """Bits per byte by domain after the schedule `name`."""
    kind, *rest = name.split(":")
    if kind in ("own", "merged") and not experts:
        experts |= own(work)
    if kind == "own":
        keep(work, experts, name)
        return {d: work.scores(experts[d], [d])[d] for d in work.domains}
    if kind == "merged":
        return work.scores(combined(work, experts, *rest))
    if kind == "tails":
        found = tails(work, int(rest[0]), float(rest[1]), float(rest[2]))
        keep(work, found, name)
        say(f"{name}, common", work.scores(found["common"]), 0.0)
        return {d: work.scores(found[d], [d])[d] for d in work.domains}
    made: Mapping[str, Callable[..., Model]] = {
        "central": lambda size="0": central(work, int(size)),
        "relay": lambda cycles, moments="keep": relay(work, int(cycles), moments),
        "averaged": lambda cycles, moments="keep": averaged(work, int(cycles), moments),
        "parallel": lambda rounds, rule: parallel(work, int(rounds), rule),
        "rotation": lambda cycles, every, moments="travel": rotation(work, int(cycles), int(every), moments),
        "groups": lambda count, *rule: groups(work, int(count), *rule),
    }
    model = made[kind](*rest)
    keep(work, {kind: model}, name)
    return work.scores(model)


def keep(work: Work, models: Mapping[str, Model], name: str) -> None:
    """Save models as adapter folders, where the user asked for it."""
    for row, factors in models.items() if work.save is not None else ():
        folder = work.save / f"{name.replace(':', '-')}-seed{work.config.train.seed}" / row
        if not folder.exists():
            Adapter(factors, work.config.base.name, work.base.info.fingerprint).save(folder)


def main() -> int:
    """Run the schedules and print the table."""
    args = _arguments()
    tune_allocator()
    if args.beta2 or args.epsilon:
        betas = {"betas": (0.9, args.beta2 or 0.999), **({"eps": args.epsilon} if args.epsilon else {})}
        torch.optim.AdamW = partial(torch.optim.AdamW, **betas)  # type: ignore[misc,assignment]
    data = named_paths(args.data, "--data")
    with tempfile.TemporaryDirectory(prefix="cogen-schedules-") as place:
        work = prepare(Path(place), data, args)
        found: dict[str, Any] = {"base": work.base_scores()}
        experts: dict[str, Any] = {}
        say("base", found["base"], 0.0)
        for name in args.schedules:
            began = time.monotonic()
            found[name] = run(name, work, experts)
            say(name, found[name], time.monotonic() - began)
    print(
        json.dumps(
            {
                "arguments": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
                "bits_per_byte": found,
                "versions": versions(),
            },
            indent=1,
        )
    )
    return 0


def prepare(place: Path, data: Mapping[str, str], args: argparse.Namespace) -> Work:
    """Read the corpora as domains of a simulation do."""
    source = place / "run.toml"
    source.write_text(_toml(data, args))
    config = load_config(source, args.set)
    folder = RunFolder(place / "run")
    folder.create(config.to_toml())
    trainers = {
        d.name: Trainer(
            work_settings(config, d),
            settings_of_run(config),
            d.name,
            str(d.data),
            config.base.name,
            folder.node(d.name),
        )
        for d in config.domains
    }
    base = load_base(config.base.name, precision=config.base.precision)
    heldout = {}
    for name, trainer in trainers.items():
        documents, tokens = trainer.data.heldout_documents, 2 * args.heldout_tokens
        windows = heldout_windows(documents, base.tokenizer, WINDOW_TOKENS, tokens)
        half = -(-len(windows) // 2)
        heldout[name] = windows[half:] if args.validation else windows[:half]
    streams = {name: trainer.data.stream for name, trainer in trainers.items()}
    return Work(base, config, streams, heldout, -(-args.tokens // args.sequence_length), args.save)


def say(name: str, scores: Mapping[str, float], seconds: float) -> None:
    mean = sum(scores.values()) / len(scores)
    cells = ", ".join(f"{d} {v:.4f}" for d, v in scores.items())
    print(f"{name}: mean {mean:.4f} ({cells}), {seconds:.0f} s", file=sys.stderr, flush=True)


def _toml(data: Mapping[str, str], args: argparse.Namespace) -> str:
    lines = ["[base]", f"name = {json.dumps(args.base)}", "[train]", f"tokens_per_round = {args.tokens}"]
    lines += [f"sequence_length = {args.sequence_length}", f"batch_size = {args.batch_size}", f"rank = {args.rank}"]
    lines += [f"learning_rate = {args.learning_rate}", f"seed = {args.seed}", "[evaluate]", "round_heldout_tokens = 0"]
    lines += [f"max_heldout_tokens = {2 * args.heldout_tokens}"]
    for name, path in data.items():
        lines += ["[[domains]]", f"name = {json.dumps(name)}", f"data = {json.dumps(str(Path(path).resolve()))}"]
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("schedules", nargs="+", help="see above")
    add("--data", action="append", default=[], required=True, help="DOMAIN=PATH of a corpus")
    add("--base", default="smollm2-135m")
    add("--tokens", type=int, default=15_360, help="of each domain; default: %(default)s")
    add("--sequence-length", type=int, default=512)
    add("--batch-size", type=int, default=1)
    add("--learning-rate", type=float, default=5e-4)
    add("--rank", type=int, default=16)
    add("--beta2", type=float, help="of Adam; default: 0.999")
    add("--epsilon", type=float, help="of Adam; default: 1e-8")
    add("--heldout-tokens", type=int, default=4096, help="of each domain, scored; default: %(default)s")
    add("--validation", action="store_true", help="score the windows after the held-out ones: to choose settings by")
    add("--set", action="append", default=[], help="TABLE.KEY=VALUE of the config")
    add("--seed", type=int, default=0)
    add("--save", type=Path, help="folder for the adapters that the schedules end with")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
