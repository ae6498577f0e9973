"""The work of `cogen simulate`, imported only when it runs: start, show, report."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cogen.cli.narrator import Narrator
from cogen.cli.show import print_json
from cogen.config import load_config
from cogen.evaluate.matrix import format_table, retained_gain
from cogen.evaluate.run_scores import read_evaluation, summarize_runs
from cogen.evaluate.seed_summary_text import format_seed_summary, member_lines
from cogen.flower.simulate import run_folder, simulate
from cogen.report import write_report
from cogen.runs import RunFolder


def summary_settings(baselines: bool, seeds: int | None, general: str | None) -> list[str]:
    """The options as settings, whose bounds and words for errors they share; a path is one from here."""
    if general is not None and not general.startswith("hf://"):
        general = str(Path(general).expanduser().resolve())
    given = {
        "baselines": "true" if baselines else None,
        "num_seeds": seeds,
        "general": general and json.dumps(general, ensure_ascii=False),
    }
    return [f"evaluate.{key}={value}" for key, value in given.items() if value is not None]


def run_simulate(
    config: str,
    out: Path | None,
    overrides: list[str],
    *,
    resume: bool,
    overwrite: bool,
    port: int | None,
    watch: bool,
    as_json: bool,
) -> None:
    """Run it, then print the matrix and where everything lies."""
    with _page_of(run_folder(config, out), watch), Narrator() as narrator:
        run = simulate(
            config,
            out=out,
            overrides=overrides,
            resume=resume,
            overwrite=overwrite,
            port=port,
            on_event=narrator.on_event,
        )
        page = write_report(run.path)
    evaluation, settings = read_evaluation(run), load_config(run.config)
    seed_summary = summarize_runs(run, settings.seeds) if settings.evaluate.has_summary else None
    if as_json:
        found = {"run": str(run.path), "retained_gain": retained_gain(evaluation), **json.loads(evaluation.to_json())}
        print_json(found if seed_summary is None else {**found, "seed_summary": seed_summary.to_dict()})
        return
    print("bits per byte on held-out text (lower is better)\n")
    if seed_summary is None:
        print(format_table(evaluation))
    else:
        print(format_seed_summary(seed_summary))
        print("\n".join(member_lines(seed_summary)))
    print(f"\ncombined adapter: {run.merged}\nreport: {page}")


@contextmanager
def _page_of(run: RunFolder, is_wanted: bool) -> Iterator[None]:
    """The live page beside the run, where it is wanted."""
    if not is_wanted:
        yield
        return
    from cogen.report.watch import open_address, watching

    place = open_address("127.0.0.1", None)
    with watching(run.path, place):
        print(f"live page: {place.url}", file=sys.stderr)
        yield
