"""Bits per byte: negative log2-likelihood of held-out text over its UTF-8 bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from cogen.adapter import Adapter, Factors
from cogen.data.pack import Window
from cogen.errors import ConfigError, DataError
from cogen.evaluate.matrix import Cell, Evaluation
from cogen.evaluate.probes import Probe, score_probes
from cogen.evaluate.questions import MAX_REPLY_TOKENS, Question, score_questions
from cogen.evaluate.scores import QuestionScore
from cogen.evaluate.tasks import Tasks, score_tasks
from cogen.train.likelihood import sum_nats
from cogen.train.lora import attached

if TYPE_CHECKING:
    from cogen.base import Base


def evaluate_adapters(
    base: Base,
    adapters: Mapping[str, Adapter],
    windows: Mapping[str, Sequence[Window]],
    *,
    probes: Mapping[str, Sequence[Probe]] | None = None,
    questions: Mapping[str, Sequence[Question]] | None = None,
    tasks: Tasks | None = None,
    progress: Callable[[str, str, int], None] | None = None,
) -> Evaluation:
    """Score the base and every adapter on held-out windows, probes, questions and tasks; each is attached once.

    Args:
        adapters: row name to adapter; the row `base`, without an adapter, comes first.
        windows: domain to its windows (`heldout_windows`).
        probes: domain to its multiple-choice probes (`read_probes`).
        questions: domain to its questions (`read_questions`).
        tasks: tasks of lm-evaluation-harness (`find_tasks`).
        progress: called after each batch with row, domain and tokens scored; a question counts as the maximum length
            of its reply.
    Raises:
        FingerprintMismatch: an adapter was made for another base.

    >>> windows = {"grid": heldout_windows(documents, base.tokenizer, 512, 8192)}  # doctest: +SKIP
    >>> evaluate_adapters(base, {"mine": adapter}, windows).bits_per_byte("mine", "grid")  # doctest: +SKIP
    """
    _require_usable(base, adapters)
    found = Evaluation(cells=())
    rows: dict[str, Mapping[str, Factors] | None] = {"base": None}
    rows.update({name: adapter.factors for name, adapter in adapters.items()})
    for row, factors in rows.items():
        report = partial(_report, progress, row)
        with attached(base.model, factors) if factors else nullcontext():
            found = Evaluation(
                cells=(*found.cells, *(score_windows(base, w, row, d, report(d)) for d, w in windows.items())),
                probes=(*found.probes, *(score_probes(base, p, row, d, report(d)) for d, p in (probes or {}).items())),
                questions=(*found.questions, *(_ask(base, q, row, d, report(d)) for d, q in (questions or {}).items())),
                tasks=(*found.tasks, *(() if tasks is None else score_tasks(base, tasks, row))),
            )
    return found


def _require_usable(base: Base, adapters: Mapping[str, Adapter]) -> None:
    if "base" in adapters:
        raise ConfigError("cannot score", expected="another name", got="an adapter called base", fix="Rename it.")
    for name, adapter in adapters.items():
        base.info.require(adapter, name)


def score_row(
    base: Base,
    factors: Mapping[str, Factors] | None,
    windows: Mapping[str, Sequence[Window]],
    row: str,
    progress: Callable[[str, str, int], None] | None = None,
) -> list[Cell]:
    """Score one model on every column; `factors` is None for the base alone."""
    with attached(base.model, factors) if factors else nullcontext():
        return [score_windows(base, w, row, column, _report(progress, row, column)) for column, w in windows.items()]


def _report(progress: Callable[[str, str, int], None] | None, row: str, domain: str) -> Callable[[int], None]:
    return lambda num_tokens: None if progress is None else progress(row, domain, num_tokens)


def _ask(
    base: Base, questions: Sequence[Question], row: str, domain: str, report: Callable[[int], None]
) -> QuestionScore:
    return score_questions(base, questions, row, domain, lambda num: report(num * MAX_REPLY_TOKENS))


def score_windows(
    base: Base,
    windows: Sequence[Window],
    model: str,
    domain: str,
    progress: Callable[[int], None] | None = None,
) -> Cell:
    """Bits per byte of the base with the adapter that is attached to it now; every token of every window counts once.

    bpb = sum of -log2 p(token | BOS or else EOS, and the window so far) / UTF-8 bytes of the windows.

    Raises:
        DataError: there are no windows.
    """
    if not windows:
        raise nothing_held_out(domain)
    nats = sum_nats(base, windows, progress)
    num_bytes = sum(w.num_bytes for w in windows)
    return Cell(model, domain, nats / math.log(2.0) / num_bytes, num_bytes, sum(len(w.tokens) for w in windows))


def nothing_held_out(domain: str) -> DataError:
    """The error for a domain without held-out text."""
    fix = "Hold out more documents."
    return DataError("cannot score", expected="held-out text", got="none", where=domain, fix=fix)
