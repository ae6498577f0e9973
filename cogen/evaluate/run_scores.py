"""After the rounds: train missing baselines, score missing cells of the matrix, and summarize the seeds."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.adapter import Adapter
from cogen.base import load_base
from cogen.config import RunConfig
from cogen.data import Window, heldout_windows
from cogen.evaluate.baselines import Baseline, OnEvent, baselines_of, train_baselines
from cogen.evaluate.general import general_windows
from cogen.evaluate.matrix import BASE, COMBINED, EXPERT_PREFIX, GENERAL, ROUTED, Evaluation
from cogen.evaluate.routed import score_routed
from cogen.evaluate.score import score_row
from cogen.evaluate.seed_summary import SeedSummary, summarize_seeds
from cogen.routing.folder import RoutedModel, is_routed
from cogen.runs import RunFolder
from cogen.train.corpus import prepare_corpus

if TYPE_CHECKING:
    from cogen.base import Base


@dataclass(frozen=True)
class Unscored:
    """A row of the matrix with its missing columns; `folder` has its adapter, and is None for the base."""

    row: str
    folder: Path | None
    columns: tuple[str, ...]


def score_seed(run: RunFolder, config: RunConfig, folder: Path, show: OnEvent) -> None:
    """Train and score the baselines and the general text that `config.evaluate` asks for; existing results stay.

    Args:
        run: a finished run of one seed.
        config: its settings, with that seed.
        folder: where its baselines are saved.
    Raises:
        CogenError: general text or held-out text cannot be read.
    """
    baselines = baselines_of(run, config, folder) if config.evaluate.baselines else []
    if all(c.folder.is_dir() for c in baselines) and not unscored(run, config, baselines):
        return
    base = load_base(config.base.name, precision=config.base.precision)
    train_baselines(base, run, config, baselines, show)
    _score(base, run, config, unscored(run, config, baselines), show)


def unscored(run: RunFolder, config: RunConfig, baselines: Iterable[Baseline]) -> list[Unscored]:
    """The missing cells: baselines on every domain that was scored, and every row on general text."""
    found = read_evaluation(run)
    rows: dict[str, Path | None] = {BASE: None}
    rows |= {row: run.expert(row.removeprefix(EXPERT_PREFIX)) for row in found.models if row.startswith(EXPERT_PREFIX)}
    rows |= {COMBINED: run.merged}
    made = {c.row: c.folder for c in baselines if c.folder.is_dir()}
    missing = []
    for row, folder in {**rows, **made}.items():
        columns = [d for d in found.domains if row in made and found.bits_per_byte(row, d) is None]
        if config.evaluate.general is not None and found.general_bits_per_byte(row) is None:
            columns.append(GENERAL)
        missing += [Unscored(row, folder, tuple(columns))] if columns else []
    return missing


def _score(base: Base, run: RunFolder, config: RunConfig, missing: list[Unscored], show: OnEvent) -> None:
    """Score and write one row after the other, so that an interruption loses at most one row."""
    windows = _windows(base, config, {column for job in missing for column in job.columns})
    left = sum(len(w.tokens) for job in missing for column in job.columns for w in windows[column])
    total, began, done = left, time.monotonic(), 0

    def progress(row: str, column: str, num_tokens: int) -> None:
        nonlocal done
        done += num_tokens
        rate = done / max(time.monotonic() - began, 1e-9)
        show(
            {"event": "score_step", "model": row, "num_tokens": done, "total_tokens": total, "tokens_per_second": rate}
        )

    for job in missing:
        factors = None if job.folder is None else Adapter.load(job.folder).factors
        chosen = {column: windows[column] for column in job.columns}
        cells = score_row(base, factors, chosen, job.row, progress)
        found = read_evaluation(run)
        domains = tuple(c for c in cells if c.domain != GENERAL)
        general = tuple(c for c in cells if c.domain == GENERAL)
        found = found.model_copy(update={"cells": found.cells + domains, "general": found.general + general})
        found.write(run.evaluation)
        show({"event": "evaluated", "num_cells": len(cells), "model": job.row})


def score_routed_row(run: RunFolder, config: RunConfig, show: OnEvent) -> None:
    """Score the routed model of a finished simulation on every domain and the general text, unless it was scored.

    In a real federation no place has all experts and the text of all domains, so only a simulation has this row.
    """
    found = read_evaluation(run)
    if not is_routed(run.routed) or ROUTED in found.models:
        return
    base = load_base(config.base.name, precision=config.base.precision)
    columns = {*found.domains, *([GENERAL] if config.evaluate.general is not None else [])}
    windows = _windows(base, config, columns)
    left, total, began = 0, sum(len(w.tokens) for some in windows.values() for w in some), time.monotonic()

    def progress(row: str, column: str, num_tokens: int) -> None:
        nonlocal left
        left = min(left + num_tokens, total)
        rate = left / max(time.monotonic() - began, 1e-9)
        values = {"num_tokens": left, "total_tokens": total, "tokens_per_second": rate}
        show({"event": "score_step", "model": row, **values})

    scores = score_routed(base, RoutedModel.open(run.routed), ROUTED, windows, progress=progress)
    domains = tuple(c for c in scores.cells if c.domain != GENERAL)
    general = tuple(c for c in scores.cells if c.domain == GENERAL)
    changes = {"cells": found.cells + domains, "general": found.general + general}
    found.model_copy(update={**changes, "routing": found.routing + scores.routing}).write(run.evaluation)
    show({"event": "evaluated", "num_cells": len(scores.cells), "model": ROUTED})


def _windows(base: Base, config: RunConfig, columns: set[str]) -> dict[str, list[Window]]:
    """Held-out windows as the domains themselves scored them, and all windows of the general text."""
    evaluate, sequence_length = config.evaluate, config.train.sequence_length
    windows = {}
    for domain in [d for d in config.corpora if d in columns]:
        heldout = prepare_corpus(base, config.corpora[domain], config.data, evaluate.heldout_frac).heldout
        windows[domain] = heldout_windows(heldout, base.tokenizer, sequence_length, evaluate.max_heldout_tokens)
    if evaluate.general is not None and GENERAL in columns:
        windows[GENERAL] = general_windows(base, evaluate.general, sequence_length)
    return windows


def summarize_runs(run: RunFolder, seeds: Iterable[int]) -> SeedSummary:
    """Summarize the finished runs of these seeds: `run` is the first seed, the others are in `seeds/`."""
    runs = {seed: run.seed(seed) if i else run for i, seed in enumerate(seeds)}
    return summarize_seeds({seed: read_evaluation(one) for seed, one in runs.items()})


def read_evaluation(run: RunFolder) -> Evaluation:
    """The evaluation of a finished run."""
    return Evaluation.load(run.evaluation)
