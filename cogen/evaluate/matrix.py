"""The evaluation matrix: bits per byte of every model on every domain's held-out text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from cogen.console import table
from cogen.evaluate.scores import ProbeScore, QuestionScore, RoutingScore, TaskScore
from cogen.records import Inconsistent, Name, Record

BASE = "base"
COMBINED = "combined"
CENTRALIZED = "centralized"
ROUTED = "routed"
EXPERT_PREFIX = "expert:"
LOCAL_PREFIX = "local:"
ROUND_PREFIX = "round:"
GENERAL = "general"
NOTHING = "-"


@dataclass(frozen=True)
class Cell:
    """One model on one domain's held-out text; `bits_per_byte` is comparable across tokenizers."""

    model: Name
    domain: Name
    bits_per_byte: Annotated[float, Field(ge=0)]
    num_bytes: Annotated[int, Field(gt=0)]
    num_tokens: Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class NotMeasured:
    """Why one model has no score on one domain's held-out text, in a few words."""

    model: Name
    domain: Name
    reason: Name


class Evaluation(Record):
    """`evaluation.json`: rows are models, columns are domains, and cells may be missing.

    `not_measured` says why cells of a federation are missing.
    `routing` says where the gates of routed models send each domain's windows.
    `general` has one cell per model on text that no client trained on; it is part of no mean. `probes`, `questions`
    and `tasks` (of lm-evaluation-harness) are empty unless the user asked for them.

    >>> Evaluation(cells=(Cell("base", "clinical", 0.81, 4000, 1000),)).bits_per_byte("base", "clinical")
    0.81
    """

    file_name = "evaluation.json"
    fix = "Write it again with `cogen evaluate`."

    format: Literal[1] = 1
    cells: tuple[Cell, ...]
    not_measured: tuple[NotMeasured, ...] = ()
    general: tuple[Cell, ...] = ()
    probes: tuple[ProbeScore, ...] = ()
    questions: tuple[QuestionScore, ...] = ()
    tasks: tuple[TaskScore, ...] = ()
    routing: tuple[RoutingScore, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """Row names, in order of first appearance."""
        return tuple(dict.fromkeys(cell.model for cell in self.cells))

    @property
    def domains(self) -> tuple[str, ...]:
        """Column names, in order of first appearance."""
        return tuple(dict.fromkeys(cell.domain for cell in self.cells))

    def bits_per_byte(self, model: str, domain: str) -> float | None:
        """The value of one cell; None if the model was not scored on the domain."""
        return next((c.bits_per_byte for c in self.cells if (c.model, c.domain) == (model, domain)), None)

    def general_bits_per_byte(self, model: str) -> float | None:
        """The value on general text; None if the model was not scored on it."""
        return next((c.bits_per_byte for c in self.general if c.model == model), None)

    def mean_bits_per_byte(self, model: str) -> float | None:
        """Plain mean over the domains; None unless the model was scored on all domains."""
        found = [self.bits_per_byte(model, domain) for domain in self.domains]
        values = [value for value in found if value is not None]
        return sum(values) / len(values) if values and len(values) == len(found) else None

    def gaps(self) -> list[str]:
        """Why cells are missing, one sentence for each reason."""
        by_reason: dict[tuple[str, str], list[str]] = {}
        for gap in self.not_measured:
            by_reason.setdefault((gap.reason, gap.domain), []).append(gap.model)
        lines: dict[tuple[str, str], list[str]] = {}
        for (reason, domain), models in by_reason.items():
            lines.setdefault((reason, ", ".join(models)), []).append(domain)
        return [f"{models} on {', '.join(domains)}: {reason}" for (reason, models), domains in lines.items()]

    def check(self) -> None:
        """Raise Inconsistent when a cell or a score is there twice."""
        for name in ("cells", "general", "probes", "questions", "tasks", "routing"):
            seen: set[tuple[str, ...]] = set()
            for row in getattr(self, name):
                key = tuple(value for value in vars(row).values() if isinstance(value, str))
                if key in seen:
                    raise Inconsistent(f"{name} without duplicates", f"{' on '.join(key)} twice")
                seen.add(key)

    @model_serializer(mode="wrap")
    def _without_empty_parts(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: part for name, part in serialize(self).items() if part or name == "cells"}


def alone(evaluation: Evaluation, domain: str) -> str:
    """The row of a domain that trained alone: `expert:<domain>`, or the baseline `local:<domain>` without an expert."""
    expert = EXPERT_PREFIX + domain
    return expert if expert in evaluation.models else LOCAL_PREFIX + domain


def is_alone(model: str, domain: str) -> bool:
    """Whether the row is the domain's expert or its local baseline."""
    return model in (EXPERT_PREFIX + domain, LOCAL_PREFIX + domain)


def retained_gain(evaluation: Evaluation, model: str = COMBINED) -> dict[str, float | None]:
    """The part of each domain's gain by training alone that `model` keeps, on the domain's own text.

    (bpb base - bpb model) / (bpb base - bpb alone); 1 is as good as the domain alone, 0 is the base.

    Returns: domain to fraction; None if a cell is missing or training alone gained nothing.
    """
    gains: dict[str, float | None] = {}
    for domain in evaluation.domains:
        base = evaluation.bits_per_byte(BASE, domain)
        mine = evaluation.bits_per_byte(model, domain)
        expert = evaluation.bits_per_byte(alone(evaluation, domain), domain)
        if base is None or mine is None or expert is None or base <= expert:
            gains[domain] = None
        else:
            gains[domain] = (base - mine) / (base - expert)
    return gains


def format_table(evaluation: Evaluation) -> str:
    """A plain-text table: models by domains in bits per byte, `*` at the lowest of a column.

    A row has a mean only if the model was scored on every domain. General text, if scored, is the last column. Two
    rows follow if they can be computed: the retained gain in percent, and combined - base (negative is better; on
    general text it is the forgetting). Below are the reasons why cells are missing.
    """
    header = ["bits per byte", *evaluation.domains, "mean", *([GENERAL] if evaluation.general else [])]
    columns = [[evaluation.bits_per_byte(m, d) for m in evaluation.models] for d in evaluation.domains]
    columns.append([evaluation.mean_bits_per_byte(m) for m in evaluation.models])
    if evaluation.general:
        columns.append([evaluation.general_bits_per_byte(m) for m in evaluation.models])
    written = [_mark_lowest(column) for column in columns]
    rows = [[m, *(column[i] for column in written)] for i, m in enumerate(evaluation.models)]
    text = table([header, *rows, *_summary_rows(evaluation)], marks="*") + "\n"
    return text + "".join(f"not measured: {line}\n" for line in evaluation.gaps())


def _mark_lowest(column: Sequence[float | None]) -> list[str]:
    """Four decimals, then `*` at the lowest if there is another to compare it with."""
    values = [value for value in column if value is not None]
    lowest = min(values) if len(values) > 1 else None
    return [NOTHING if v is None else f"{v:.4f}{'*' if v == lowest else ''}" for v in column]


def _summary_rows(evaluation: Evaluation) -> list[list[str]]:
    rows = []
    if COMBINED in evaluation.models and any(alone(evaluation, d) in evaluation.models for d in evaluation.domains):
        gains = list(retained_gain(evaluation).values())
        known = [gain for gain in gains if gain is not None]
        gains.append(sum(known) / len(known) if known else None)
        gains.extend([None] if evaluation.general else [])
        rows.append(["retained gain", *(NOTHING if g is None else f"{g:.1%}" for g in gains)])
    if {BASE, COMBINED} <= set(evaluation.models):
        pairs = [(evaluation.bits_per_byte(COMBINED, d), evaluation.bits_per_byte(BASE, d)) for d in evaluation.domains]
        pairs.append((evaluation.mean_bits_per_byte(COMBINED), evaluation.mean_bits_per_byte(BASE)))
        if evaluation.general:
            pairs.append((evaluation.general_bits_per_byte(COMBINED), evaluation.general_bits_per_byte(BASE)))
        changes = [NOTHING if c is None or b is None else f"{c - b:+.4f}" for c, b in pairs]
        rows.append(["combined - base", *changes])
    return rows
