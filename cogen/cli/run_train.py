"""The work of `cogen train`, imported only when it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from cogen.base import describe_base, load_base
from cogen.cli.cli_config import cli_config
from cogen.cli.run_range_test import run_range_test
from cogen.cli.show import byte_bar, named_paths, print_json, token_bar
from cogen.config import RunConfig
from cogen.data.walk import corpus_root
from cogen.distributed import process_rank
from cogen.errors import ConfigError, RunError
from cogen.report.track import Tracking
from cogen.train.cost import TrainingCost
from cogen.train.distributed import join_process_group, leave_process_group
from cogen.train.loop import Step
from cogen.train.schedule import plan_round
from cogen.train.single import TrainedAdapter, train_adapter

GRAM_TOKENS = 8192
TABLES = ("train", "data", "track", "base.precision")  # that --set may change


def run_train(
    base_name: str,
    data: list[str],
    domain: str,
    out: Path | None,
    heldout_frac: float,
    overrides: list[str],
    *,
    gram: bool,
    lr_range_test: bool,
    resume: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Check the input, train with a bar, write the adapter, say what came of it."""
    paths = named_paths(data, "--data")
    if lr_range_test and paths:
        config = _config(domain or "range-test", paths, heldout_frac, overrides)
        _require_alone()
        run_range_test(load_base(base_name, precision=config.base.precision), paths, config, as_json)
        return
    out = _checked_out(paths, domain, out, replaced=resume or overwrite)
    config = _config(domain, paths, heldout_frac, overrides)
    state = out.parent / f".{out.name}.training"
    group = join_process_group(config.train.batch_size)
    if resume and group.is_main and not state.is_file():
        print(f"nothing to resume at {state}: starting afresh", file=sys.stderr)
    with group.main_first():
        describe_base(base_name)
    base = load_base(base_name, precision=config.base.precision)
    train = partial(
        train_adapter,
        base,
        paths,
        config.train,
        domain=domain,
        heldout_frac=heldout_frac,
        data=config.data,
        state_path=state,
        resume=resume,
        gram_tokens=GRAM_TOKENS if gram else 0,
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
    """Train with bars, and with what `[track]` names."""
    settings, domain = config.train, config.domains[0].name
    num_tokens = plan_round(settings, 1, 1).num_blocks * settings.sequence_length
    with Tracking(config, out.parent, out.name) as tracking, TrainingBars(domain, num_tokens) as bars:

        def on_step(step: Step) -> None:
            bars.step(step)
            tracking.step(domain, vars(step))

        return train(on_read=bars.read, on_start=bars.start, on_step=on_step)


class TrainingBars(ExitStack):
    """A bar in bytes until training starts, then one in tokens."""

    def __init__(self, title: str, num_tokens: int) -> None:
        super().__init__()
        self.title, self.num_tokens = title, num_tokens
        self.read = self.enter_context(byte_bar("data")).update

    def start(self, cost: TrainingCost) -> None:
        self.close()
        print(f"{self.title}: {cost}", file=sys.stderr)
        self.bar = self.enter_context(token_bar(self.title, self.num_tokens))

    def step(self, step: Step) -> None:
        self.bar.update(step.num_tokens, f"loss {step.loss_nats:.3f}")


def _checked_out(paths: dict[str, str], domain: str, out: Path | None, *, replaced: bool) -> Path:
    """The folder to write, if all that training needs is named and nothing is in the way."""
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


def _require_alone() -> None:
    if (count := process_rank().count) > 1:
        fix = "Start it without accelerate launch or torchrun."
        raise ConfigError("cannot test learning rates", expected="one process", got=f"{count} processes", fix=fix)


def _config(domain: str, paths: dict[str, str], heldout_frac: float, overrides: list[str]) -> RunConfig:
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
