"""`cogen train`: one domain alone, without Flower."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogen.cli.options import (
    ACCEPT_LOSS,
    DEFAULT_BASE,
    AcceptLoss,
    AsJson,
    BaseName,
    HeldoutFrac,
    Overwrite,
    Settings,
    named_paths,
    say_account,
)
from cogen.console import BYTES, TOKENS, Bar, print_json, table

if TYPE_CHECKING:
    from cogen.config import RunConfig
    from cogen.data.account import Account
    from cogen.train.cost import TrainingCost
    from cogen.train.loop import Step
    from cogen.train.range_test import RateTrial
    from cogen.train.single import TrainedAdapter

GRAM_TOKENS = 8192
TABLES = ("train", "data", "track", "base.precision")  # that --set may change


def train(
    base: BaseName = DEFAULT_BASE,
    data: Annotated[list[str], typer.Option(help="[NAME=]PATH of a corpus; several take turns.")] = [],  # noqa: B006
    domain: Annotated[str, typer.Option(help="Name of the domain.")] = "",
    out: Annotated[Path | None, typer.Option(help="Adapter folder to write.")] = None,
    start: Annotated[Path | None, typer.Option(help="Adapter to train on; fresh without it.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens to train (train.tokens_per_round).")] = None,
    replay: Annotated[str | None, typer.Option(help="General text to mix in (train.replay).")] = None,
    annealing: Annotated[str | None, typer.Option(help="Text for the last steps (train.annealing).")] = None,
    heldout_frac: HeldoutFrac = 0.05,
    settings: Settings = [],  # noqa: B006
    accept_loss: AcceptLoss = False,
    gram: Annotated[bool, typer.Option("--gram", help="Keep input statistics for merging by regmean.")] = False,
    gate: Annotated[bool, typer.Option("--gate", help="Keep text statistics for a routed model.")] = False,
    lr_range_test: Annotated[bool, typer.Option("--lr-range-test", help="Only find a learning rate.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the saved state.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train a LoRA adapter on one corpus.

    This continues pretraining of a base model for one domain. --set changes train.*, data.*,
    track.* and base.precision. A corpus may also be hf://datasets/OWNER/NAME.

    Example: cogen train --data seeds/grid.jsonl --domain grid --out adapters/grid
    """
    from cogen.adapter import Adapter
    from cogen.train.memory import tune_allocator
    from cogen.train.text_states import STATISTICS_TOKENS

    tune_allocator()
    short = {
        "tokens_per_round": tokens,
        "replay": replay and f"'{replay}'",
        "annealing": annealing and f"'{annealing}'",
    }
    overrides = [*(f"train.{key}={value}" for key, value in short.items() if value is not None), *settings]
    overrides += [ACCEPT_LOSS] if accept_loss else []
    paths = named_paths(data, "--data")
    if lr_range_test and paths:
        _find_rate(base, paths, _config(domain or "range-test", paths, heldout_frac, overrides), as_json)
        return
    out = _checked_out(paths, domain, out, replaced=resume or overwrite)
    config = _config(domain, paths, heldout_frac, overrides)
    about: dict[str, Any] = {"gram_tokens": GRAM_TOKENS if gram else 0, "gate_tokens": STATISTICS_TOKENS if gate else 0}
    about |= {} if start is None else {"start": Adapter.load(start)}
    _train(base, paths, config, out, about, resume=resume, as_json=as_json)


def _train(
    base_name: str,
    paths: dict[str, str],
    config: RunConfig,
    out: Path,
    about: Mapping[str, Any],
    *,
    resume: bool,
    as_json: bool,
) -> None:
    """Train with a bar, write the adapter, print a line about it; of several processes the first one does so."""
    from cogen.base import describe_base, load_base
    from cogen.train.distributed import join_process_group, leave_process_group
    from cogen.train.single import train_adapter

    state = out.parent / f".{out.name}.training"
    group = join_process_group(config.train.batch_size)
    if resume and group.is_main and not state.is_file():
        print(f"nothing to resume at {state}: starting from the beginning", file=sys.stderr)
    with group.main_first():
        describe_base(base_name)
    base = load_base(base_name, precision=config.base.precision)
    train = partial(
        train_adapter,
        base,
        paths,
        config.train,
        domain=config.domains[0].name,
        heldout_frac=config.evaluate.heldout_frac,
        data=config.data,
        state_path=state,
        resume=resume,
        **about,
    )
    if group.is_main:
        made = _shown(train, config, out)
        made.adapter.save(out)
        state.unlink(missing_ok=True)
        _say(made, out, as_json)
    else:
        train()
    leave_process_group()


def _shown(train: Callable[..., TrainedAdapter], config: RunConfig, out: Path) -> TrainedAdapter:
    """Train with bars, and with the tracking that `[track]` names."""
    from cogen.report.track import Tracking
    from cogen.train.schedule import plan_round

    settings, domain = config.train, config.domains[0].name
    num_tokens = plan_round(settings, 1, 1).num_blocks * settings.sequence_length
    with Tracking(config, out.parent, out.name) as tracking, TrainingBars(domain, num_tokens) as bars:

        def on_step(step: Step) -> None:
            bars.step(step)
            tracking.step(domain, vars(step))

        return train(on_read=bars.read, on_account=bars.account, on_start=bars.start, on_step=on_step)


class TrainingBars(ExitStack):
    """A bar in bytes while the corpus is read, then one in tokens."""

    def __init__(self, title: str, num_tokens: int) -> None:
        super().__init__()
        self.title, self.num_tokens = title, num_tokens
        self.read = self.enter_context(Bar("data", BYTES)).update_part

    def account(self, name: str, account: Account) -> None:
        self.close()
        say_account(name, account)

    def start(self, cost: TrainingCost) -> None:
        self.close()
        print(f"{self.title}: {cost}", file=sys.stderr)
        if cost.warning:
            print(f"{self.title}: {cost.warning}", file=sys.stderr)
        self.bar = self.enter_context(Bar(self.title, TOKENS, self.num_tokens))

    def step(self, step: Step) -> None:
        self.bar.update(step.num_tokens, f"loss {step.loss_nats:.3f}")


def _checked_out(paths: dict[str, str], domain: str, out: Path | None, *, replaced: bool) -> Path:
    """The folder to write, where every needed option is given and writing replaces nothing."""
    from cogen.errors import ConfigError, RunError

    if not paths or not domain or out is None:
        missing = "--data" if not paths else "--domain" if not domain else "--out"
        raise ConfigError("cannot train", expected=missing, got="nothing", fix="See cogen train --help.")
    if out.exists() and not out.is_dir():
        raise RunError("cannot write", expected="a folder", got="a file", where=str(out), fix="Name another --out.")
    if out.is_dir() and any(out.iterdir()) and not replaced:
        fix = "Continue it with --resume, replace it with --overwrite, or name another --out."
        raise RunError(
            "cannot write", expected="a new or empty folder", got="a folder with files", where=str(out), fix=fix
        )
    return out


def _config(domain: str, paths: dict[str, str], heldout_frac: float, overrides: list[str]) -> RunConfig:
    from cogen.cli.cli_config import cli_config
    from cogen.data.walk import corpus_root

    config = cli_config(domain, next(iter(paths.values())), heldout_frac, overrides, TABLES)
    for path in paths.values():
        corpus_root(path)  # fails before the base is loaded
    return config


def _say(made: TrainedAdapter, out: Path, as_json: bool) -> None:
    result = made.result
    rate = result.num_tokens / max(result.seconds, 1e-9)
    if as_json:
        values = {"out": str(out), "num_tokens": result.num_tokens, "loss_nats": result.loss_nats}
        print_json({**values, "seconds": result.seconds, "tokens_per_second": rate})
    else:
        if best := result.best:
            print(f"kept step {best.step} of {result.num_steps}: {best.bits_per_byte:.4f} bits per byte")
        print(f"{out}: {result.num_tokens} tokens, mean loss {result.loss_nats:.3f} nats, {rate:.0f} tok/s")


def _find_rate(base_name: str, corpora: Mapping[str, str], config: RunConfig, as_json: bool) -> None:
    """Try learning rates with a bar, print a table and the rate to take."""
    from cogen.base import load_base
    from cogen.distributed import process_rank
    from cogen.errors import ConfigError
    from cogen.train.range_test import NUM_STEPS, RATES, range_test, stable_trials

    if (count := process_rank().count) > 1:
        fix = "Start it without accelerate launch or torchrun."
        raise ConfigError("cannot test learning rates", expected="one process", got=f"{count} processes", fix=fix)
    base = load_base(base_name, precision=config.base.precision)
    settings, heldout_frac = config.train, config.evaluate.heldout_frac
    total = len(RATES) * NUM_STEPS * settings.batch_size * settings.sequence_length
    with Bar("range test", TOKENS, total) as bar:
        before, trials = range_test(
            base, corpora, settings, heldout_frac=heldout_frac, data=config.data, on_step=bar.update
        )
    stable = stable_trials(trials, before)
    best = stable[-1].learning_rate if stable else None
    if as_json:
        print_json({"nats_before": before, "recommended": best, "trials": [_row(t, stable) for t in trials]})
        return
    rows = [[f"{t.learning_rate:.0e}", f"{t.nats_after:.3f}", "yes" if t in stable else "no"] for t in trials]
    head, *lines = table([["rate", "nats after", "stable"], *rows], num_left=0).splitlines()
    print("\n".join([f"{head}    (before: {before:.3f} nats)", *lines]))
    print(f"take --set train.learning_rate={best:g}" if best else "no rate is stable: check the data and the base")


def _row(trial: RateTrial, stable: Sequence[RateTrial]) -> dict[str, Any]:
    """One trial as JSON; a loss that is not finite is null, because JSON has no infinity."""
    after = trial.nats_after if math.isfinite(trial.nats_after) else None
    return {"learning_rate": trial.learning_rate, "nats_after": after, "stable": trial in stable}
