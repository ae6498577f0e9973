"""The work of `cogen evaluate`, imported only when it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cogen.adapter import Adapter
from cogen.base import Base, load_base
from cogen.cli.show import TokenBar, byte_bar, named_paths, print_json, token_bar
from cogen.data import Document, Window, heldout_windows, read_corpus
from cogen.data.spool import Progress
from cogen.data.walk import corpus_root
from cogen.errors import ConfigError
from cogen.evaluate.matrix import Evaluation
from cogen.evaluate.probes import Probe, probe_pairs, read_probes
from cogen.evaluate.questions import MAX_REPLY_TOKENS, Question, read_questions
from cogen.evaluate.score import evaluate_adapters
from cogen.evaluate.tables import format_evaluation
from cogen.evaluate.tasks import Tasks, find_tasks
from cogen.train.corpus import prepare_corpus


@dataclass(frozen=True)
class Heldout:
    """`NAME=PATH` of corpora, and how much of their held-out part is scored, in which windows."""

    data: tuple[str, ...]
    heldout_frac: float
    max_tokens: int
    sequence_length: int


@dataclass(frozen=True)
class Asked:
    """What the user wants scored: `NAME=FILE` of probes and of questions, names of tasks."""

    heldout: Heldout
    probes: tuple[str, ...]
    questions: tuple[str, ...]
    tasks: tuple[str, ...]
    task_folder: Path | None
    task_limit: int | None


@dataclass(frozen=True)
class Items:
    """The same, read; by domain, and `tasks` None where none was asked for."""

    probes: Mapping[str, Sequence[Probe]]
    questions: Mapping[str, Sequence[Question]]
    tasks: Tasks | None


def run_evaluate(base_name: str, adapters: Sequence[str], asked: Asked, out: Path | None, *, as_json: bool) -> None:
    """Check the input, score with a bar, write and print the tables."""
    folders, paths = named_paths(adapters, "--adapter"), named_paths(asked.heldout.data, "--data")
    if not (paths or asked.probes or asked.questions or asked.tasks) or "base" in folders:
        expected = "--data NAME=PATH, --probes, --questions or --tasks"
        got = "an adapter called base" if "base" in folders else "nothing"
        raise ConfigError("cannot evaluate", expected=expected, got=got, fix="See cogen evaluate --help.")
    loaded = {name: Adapter.load(folder) for name, folder in folders.items()}
    for path in paths.values():
        corpus_root(path)
    items = _items(asked)
    base = load_base(base_name)
    evaluation = _score(base, loaded, _windows(base, paths, asked.heldout), items)
    if out is not None:
        evaluation.write(out)
    if as_json:
        print_json(evaluation.model_dump())
    else:
        print(format_evaluation(evaluation))


def _items(asked: Asked) -> Items:
    return Items(
        {name: read_probes(path) for name, path in named_paths(asked.probes, "--probes").items()},
        {name: read_questions(path) for name, path in named_paths(asked.questions, "--questions").items()},
        find_tasks(asked.tasks, asked.task_folder, asked.task_limit) if asked.tasks else None,
    )


def _windows(base: Base, paths: Mapping[str, str], heldout: Heldout) -> dict[str, list[Window]]:
    with byte_bar("data") as bar:
        documents = {name: _heldout(base, path, heldout.heldout_frac, bar.update) for name, path in paths.items()}
    return {
        name: heldout_windows(some, base.tokenizer, heldout.sequence_length, heldout.max_tokens)
        for name, some in documents.items()
    }


def _heldout(base: Base, path: str, heldout_frac: float, progress: Progress) -> tuple[Document, ...]:
    """The held-out part as training leaves it; a corpus that is held out whole just as it is."""
    if heldout_frac >= 1.0:
        return read_corpus(path).documents
    return prepare_corpus(base, path, heldout_frac=heldout_frac, progress=progress).heldout


def _score(
    base: Base, adapters: Mapping[str, Adapter], windows: Mapping[str, Sequence[Window]], items: Items
) -> Evaluation:
    tokens = sum(len(w.tokens) for some in windows.values() for w in some)
    tokens += sum(p.num_tokens for some in items.probes.values() for p in probe_pairs(some, base.tokenizer))
    tokens += sum(MAX_REPLY_TOKENS * len(some) for some in items.questions.values())
    with token_bar("scoring", tokens * (len(adapters) + 1)) as bar:
        return evaluate_adapters(
            base,
            adapters,
            windows,
            probes=items.probes,
            questions=items.questions,
            tasks=items.tasks,
            progress=_advance(bar),
        )


def _advance(bar: TokenBar) -> Callable[[str, str, int], None]:
    return lambda row, domain, num_tokens: bar.update(bar.done + num_tokens, f"{row} on {domain}")
