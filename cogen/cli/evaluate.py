"""`cogen evaluate`: scores of a base and of adapters on text, probes, questions and tasks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogen.cli.options import (
    DEFAULT_BASE,
    MAX_LOSS_FRAC,
    AcceptLoss,
    AsJson,
    BaseName,
    MaxLossFrac,
    SequenceLength,
    in_bounds,
    named_paths,
    say_account,
    say_doubts,
)
from cogen.console import BYTES, TOKENS, Bar, print_json, safe

if TYPE_CHECKING:
    from cogen.adapter import Adapter
    from cogen.base import Base
    from cogen.data import Window
    from cogen.evaluate.matrix import Evaluation
    from cogen.evaluate.probes import Probe
    from cogen.evaluate.questions import Question
    from cogen.evaluate.tasks import Tasks
    from cogen.routing.folder import RoutedModel


@dataclass(frozen=True)
class Text:
    """Corpora by name, which share of them is scored (None: as the adapters were trained), and in which windows.

    `max_loss_frac` is the share of a corpus that may be lost in reading it.
    """

    paths: Mapping[str, str]
    heldout_frac: float | None
    max_tokens: int
    sequence_length: int
    max_loss_frac: float


@dataclass(frozen=True)
class Items:
    """What is scored besides text, by domain; `tasks` is None where none was asked for."""

    probes: Mapping[str, Sequence[Probe]]
    questions: Mapping[str, Sequence[Question]]
    tasks: Tasks | None


def evaluate(
    base: BaseName = DEFAULT_BASE,
    adapter: Annotated[list[str], typer.Option(help="NAME=FOLDER, also a routed one.")] = [],  # noqa: B006
    data: Annotated[list[str], typer.Option(help="NAME=PATH of a corpus.")] = [],  # noqa: B006
    probes: Annotated[list[str], typer.Option(help="NAME=FILE of multiple-choice probes.")] = [],  # noqa: B006
    questions: Annotated[list[str], typer.Option(help="NAME=FILE of questions.")] = [],  # noqa: B006
    posterior: Annotated[bool, typer.Option("--posterior", help="Also mix all experts of routed models.")] = False,
    tasks: Annotated[str, typer.Option(help="Names in lm-evaluation-harness, as in a,b.")] = "",
    task_folder: Annotated[Path | None, typer.Option(help="Folder of your own tasks in YAML.")] = None,
    task_limit: Annotated[
        int | None, typer.Option(help="Items of each task; all by default.", callback=in_bounds(1))
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    heldout_frac: Annotated[
        float | None, typer.Option(help="Force a held-out share; 1 is all.", callback=in_bounds(0, 1, above=True))
    ] = None,
    max_heldout_tokens: Annotated[
        int, typer.Option(help="Tokens scored of each corpus.", callback=in_bounds(1))
    ] = 8192,
    sequence_length: SequenceLength = 512,
    accept_loss: AcceptLoss = False,
    max_loss_frac: MaxLossFrac = MAX_LOSS_FRAC,
    as_json: AsJson = False,
) -> None:
    """Score a base and adapters on text, probes and tasks.

    A corpus of --data is scored whole; only its held-out part is scored where one of the adapters
    was trained on it. Text is scored in bits per byte. Of a routed model the gate reads the first
    128 tokens of each window, and the expert that it chooses is scored on the others.

    Example: cogen evaluate --adapter grid=adapters/grid --data grid=grid.jsonl
    """
    from cogen.errors import ConfigError
    from cogen.evaluate.tables import format_evaluation
    from cogen.train.memory import tune_allocator

    tune_allocator()
    folders, paths = named_paths(adapter, "--adapter"), named_paths(data, "--data")
    if not (paths or probes or questions or tasks) or "base" in folders:
        expected = "--data NAME=PATH, --probes, --questions or --tasks"
        got = "an adapter called base" if "base" in folders else "nothing"
        raise ConfigError("cannot evaluate", expected=expected, got=got, fix="See cogen evaluate --help.")
    items = _read_items(probes, questions, tasks, task_folder, task_limit)
    text = Text(paths, heldout_frac, max_heldout_tokens, sequence_length, 1.0 if accept_loss else max_loss_frac)
    evaluation = _evaluate(base, folders, text, items, posterior=posterior)
    if out is not None:
        evaluation.write(out)
    if as_json:
        print_json(evaluation.model_dump())
    else:
        print(format_evaluation(evaluation))


def _evaluate(base_name: str, folders: Mapping[str, str], text: Text, items: Items, *, posterior: bool) -> Evaluation:
    """Check the input, the cheap parts first, and score it with bars."""
    from cogen.adapter import Adapter
    from cogen.base import load_base
    from cogen.data.walk import corpus_root
    from cogen.routing.folder import RoutedModel, is_routed

    routed = {name: RoutedModel.open(Path(folder)) for name, folder in folders.items() if is_routed(Path(folder))}
    _require_text(routed, items, posterior=posterior)
    adapters = {name: Adapter.load(folder) for name, folder in folders.items() if name not in routed}
    experts = {f"{name}:{e}": adapter for name, model in routed.items() for e, adapter in model.opened.items()}
    for model in routed.values():
        _ = model.gate
    for path in text.paths.values():
        corpus_root(path)
    base = load_base(base_name)
    everything = {**adapters, **experts}
    for name, adapter in everything.items():
        base.info.require(adapter, name)
    say_doubts(base, everything)
    places = {**folders, **{name: str(_place(routed, name)) for name in experts}}
    windows = windows_of(base, everything, places, text)
    return _score(base, adapters, routed, windows, items, posterior=posterior)


def _require_text(routed: Mapping[str, RoutedModel], items: Items, *, posterior: bool) -> None:
    from cogen.errors import ConfigError

    if routed and (items.probes or items.questions or items.tasks is not None):
        fix = "Name its experts one by one for the others."
        raise ConfigError("cannot evaluate", expected="--data alone for a routed model", got="other items", fix=fix)
    if posterior and not routed:
        fix = "Name a folder of `cogen merge --routed`, or take --posterior away."
        raise ConfigError("cannot evaluate", expected="a routed model for --posterior", got="none", fix=fix)


def _place(routed: Mapping[str, RoutedModel], name: str) -> Path:
    """The folder of an adapter of a routed model, by its row."""
    model, _, expert = name.partition(":")
    return routed[model].experts.get(expert, routed[model].common)


def _read_items(
    probes: list[str], questions: list[str], tasks: str, task_folder: Path | None, task_limit: int | None
) -> Items:
    from cogen.evaluate.probes import read_probes
    from cogen.evaluate.questions import read_questions
    from cogen.evaluate.tasks import find_tasks

    names = tuple(name.strip() for name in tasks.split(",") if name.strip())
    return Items(
        {name: read_probes(path) for name, path in named_paths(probes, "--probes").items()},
        {name: read_questions(path) for name, path in named_paths(questions, "--questions").items()},
        find_tasks(names, task_folder, task_limit) if names else None,
    )


def windows_of(
    base: Base, adapters: Mapping[str, Adapter], folders: Mapping[str, str], text: Text
) -> dict[str, list[Window]]:
    """The windows of every corpus; says on stderr which part of it is scored, and why."""
    from cogen.data import heldout_windows
    from cogen.data.account import tell_losses
    from cogen.evaluate.heldout import choose_part, corpora_of

    if text.paths:
        base.info.require_context(text.sequence_length, "--sequence-length", "Lower --sequence-length.")
    frac, trained = text.heldout_frac, {}
    if frac is None and text.paths:
        trained = {name: corpora_of(base, adapter, folders[name]) for name, adapter in adapters.items()}
    with Bar("data", BYTES) as bar:
        parts = {name: choose_part(base, path, trained, frac, bar.update_part) for name, path in text.paths.items()}
    for name, part in parts.items():
        print(safe(f"{name}: {part}"), file=sys.stderr)
    accounts = {name: part.account for name, part in parts.items()}
    tell_losses(accounts, text.max_loss_frac, say_account)
    return {
        name: heldout_windows(part.documents, base.tokenizer, text.sequence_length, text.max_tokens)
        for name, part in parts.items()
    }


def _score(
    base: Base,
    adapters: Mapping[str, Adapter],
    routed: Mapping[str, RoutedModel],
    windows: Mapping[str, Sequence[Window]],
    items: Items,
    *,
    posterior: bool,
) -> Evaluation:
    from cogen.evaluate.probes import probe_pairs
    from cogen.evaluate.questions import MAX_REPLY_TOKENS
    from cogen.evaluate.routed import score_routed
    from cogen.evaluate.score import evaluate_adapters

    text_tokens = sum(len(w.tokens) for some in windows.values() for w in some)
    tokens = text_tokens
    tokens += sum(p.num_tokens for some in items.probes.values() for p in probe_pairs(some, base.tokenizer))
    tokens += sum(MAX_REPLY_TOKENS * len(some) for some in items.questions.values())
    passes = sum(len(model.opened) if posterior else 1 for model in routed.values())
    with Bar("scoring", TOKENS, tokens * (len(adapters) + 1) + passes * text_tokens) as bar:
        found = evaluate_adapters(
            base,
            adapters,
            windows,
            probes=items.probes,
            questions=items.questions,
            tasks=items.tasks,
            progress=_advance(bar),
        )
        for name, model in routed.items():
            more = score_routed(base, model, name, windows, posterior=posterior, progress=_advance(bar))
            changes = {"cells": found.cells + more.cells, "routing": found.routing + more.routing}
            found = found.model_copy(update=changes)
    return found


def _advance(bar: Bar) -> Callable[[str, str, int], None]:
    return lambda row, domain, num_tokens: bar.advance(num_tokens, f"{row} on {domain}")
