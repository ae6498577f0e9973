"""The scores of an evaluation as plain-text tables."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from cogen.console import table
from cogen.evaluate.matrix import NOTHING, Evaluation, format_table
from cogen.evaluate.scores import ProbeScore, QuestionScore, RoutingScore, TaskScore, chosen_names

T = TypeVar("T", bound=Hashable)
QUESTION_COLUMNS: tuple[tuple[str, Callable[[QuestionScore], float | None]], ...] = (
    ("right", lambda s: s.right_frac),
    ("abstained", lambda s: s.abstained_frac),
    ("wrong", lambda s: s.wrong_frac),
    ("made up", lambda s: s.made_up_frac),
    ("confidence", lambda s: s.confidence_frac),
)


def format_evaluation(evaluation: Evaluation) -> str:
    """One table for each kind of score that the evaluation has, with an empty line between them."""
    tables = [
        format_table(evaluation) if evaluation.cells else "",
        routing_table(evaluation.routing),
        probe_table(evaluation.probes),
        question_table(evaluation.questions),
        task_table(evaluation.tasks),
    ]
    return "\n".join(text for text in tables if text)


def routing_table(scores: Sequence[RoutingScore]) -> str:
    """The windows of each domain by who was chosen for them, and how sure the gate was: a confusion matrix."""
    if not scores:
        return ""
    names = chosen_names(scores)
    header = ["sent by the gate of", "text of", *(f"to {name}" for name in names), "sure"]
    rows = [
        [s.model, s.domain, *(str(s.num_windows.get(name, 0)) for name in names), _percent(s.chance_frac)]
        for s in scores
    ]
    return _table([header, *rows])


def probe_table(scores: Sequence[ProbeScore]) -> str:
    """Accuracy with its 95% interval, models by domains, then chance accuracy, then calibration errors."""
    if not scores:
        return ""
    models, domains = _unique(s.model for s in scores), _unique(s.domain for s in scores)
    found = {(s.model, s.domain): s for s in scores}

    def grid(title: str, text: Callable[[ProbeScore], str]) -> list[list[str]]:
        """One row for each model, under a header row that starts with the title."""
        cells = [[text(found[m, d]) if (m, d) in found else NOTHING for d in domains] for m in models]
        return [[title, *domains], *([m, *row] for m, row in zip(models, cells, strict=True))]

    first = {s.domain: s for s in reversed(scores)}
    chance = ["chance", *(_percent(first[d].chance_frac) for d in domains)]
    number = ["probes", *(str(first[d].num_probes) for d in domains)]
    accuracy = grid("probe accuracy", _with_interval)
    errors = grid("calibration error", lambda s: f"{s.calibration_error_frac:.3f}")
    return f"{_table([*accuracy, chance, number])}\n{_table(errors)}"


def _with_interval(score: ProbeScore) -> str:
    return f"{_percent(score.accuracy_frac)} [{100 * score.low_frac:.0f}, {100 * score.high_frac:.0f}]"


def question_table(scores: Sequence[QuestionScore]) -> str:
    """One row for each model and domain: rates on answerable questions, made-up answers to the others, confidence."""
    if not scores:
        return ""
    header = ["questions", "domain", *(name for name, _ in QUESTION_COLUMNS), "over", "answerable", "not"]
    rows = [
        [
            s.model,
            s.domain,
            *(_percent(rate(s)) for _, rate in QUESTION_COLUMNS),
            NOTHING if s.overconfidence_frac is None else f"{100 * s.overconfidence_frac:+.1f}%",
            str(s.num_answerable),
            str(s.num_unanswerable),
        ]
        for s in scores
    ]
    return _table([header, *rows])


def task_table(scores: Sequence[TaskScore]) -> str:
    """Tasks and their metrics by model, with the standard error where lm-evaluation-harness gives one."""
    if not scores:
        return ""
    models, rows = _unique(s.model for s in scores), _unique((s.task, s.metric) for s in scores)
    found = {(s.model, s.task, s.metric): s for s in scores}
    cells = [[_value(found.get((m, *row))) for m in models] for row in rows]
    return _table([["tasks", *models], *([" ".join(row), *c] for row, c in zip(rows, cells, strict=True))])


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Numbers end where those of the matrix do, before the column of its marks."""
    return table(rows, marks="*") + "\n"


def _value(score: TaskScore | None) -> str:
    if score is None:
        return NOTHING
    return f"{score.value:.4f}" + ("" if score.stderr is None else f" ±{score.stderr:.4f}")


def _percent(frac: float | None) -> str:
    return NOTHING if frac is None else f"{100 * frac:.1f}%"


def _unique(items: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(items))
