"""`cogen simulate`: a whole federation on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogen.cli.options import ACCEPT_LOSS, AcceptLoss, AsJson, Overwrite, Settings
from cogen.cli.scores import print_scores

if TYPE_CHECKING:
    from cogen.evaluate.seed_summary import SeedSummary
    from cogen.runs import RunFolder


def simulate(
    config: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped config.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/<config's name> by default.")] = None,
    settings: Settings = [],  # noqa: B006
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also train local-only and centralized adapters.")
    ] = False,
    seeds: Annotated[int | None, typer.Option(help="Repeat the run with so many seeds.")] = None,
    general: Annotated[str | None, typer.Option(help="General text on which forgetting is measured.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue where the run stopped.")] = False,
    overwrite: Overwrite = False,
    accept_loss: AcceptLoss = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show the run in the browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a whole federation on this machine.

    Every domain trains, the server combines, and a table compares base, experts and combined model.

    Example: cogen simulate configs/quickstart.toml
    """
    from cogen.train.memory import tune_allocator

    tune_allocator()
    from cogen.cli.narrator import Narrator
    from cogen.flower import simulate as flower
    from cogen.report import write_report

    overrides = [*settings, *summary_settings(baselines, seeds, general), *([ACCEPT_LOSS] if accept_loss else [])]
    with _live_page(flower.run_folder(config, out), watch), Narrator() as narrator:
        run = flower.simulate(
            config,
            out=out,
            overrides=overrides,
            resume=resume,
            overwrite=overwrite,
            on_event=narrator.on_event,
        )
        page = write_report(run.path)
    print_scores(run, page, as_json, _seed_summary(run))


def summary_settings(baselines: bool, seeds: int | None, general: str | None) -> list[str]:
    """The options as settings, so that bounds and errors are those of the config; a path is relative to this folder."""
    if general is not None and not general.startswith("hf://"):
        general = str(Path(general).expanduser().resolve())
    values = {
        "baselines": "true" if baselines else None,
        "num_seeds": seeds,
        "general": general and json.dumps(general, ensure_ascii=False),
    }
    return [f"evaluate.{key}={value}" for key, value in values.items() if value is not None]


def _seed_summary(run: RunFolder) -> SeedSummary | None:
    """The summary of all seeds; None if the run's settings ask for none."""
    from cogen.config import load_config
    from cogen.evaluate.run_scores import summarize_runs

    settings = load_config(run.config)
    return summarize_runs(run, settings.seeds) if settings.evaluate.has_summary else None


@contextmanager
def _live_page(run: RunFolder, is_wanted: bool) -> Iterator[None]:
    """Serve the run's live page while the block runs, with --watch."""
    if not is_wanted:
        yield
        return
    from cogen.report.watch import open_address, watching

    address = open_address("127.0.0.1", None)
    with watching(run.path, address):
        print(f"live page: {address.url}", file=sys.stderr)
        yield
