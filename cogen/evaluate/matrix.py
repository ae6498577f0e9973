"""The evaluation matrix: bits per byte of every model on every domain's held-out text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from cogen.console import table
from cogen.evaluate.scores import ProbeScore, QuestionScore, TaskScore, malformed, read_scores

FORMAT = 1
BASE = "base"
COMBINED = "combined"
CENTRALIZED = "centralized"
EXPERT_PREFIX = "expert:"
LOCAL_PREFIX = "local:"
GENERAL = "general"
NOTHING = "-"


@dataclass(frozen=True)
class Cell:
    """One model on one domain's held-out text; `bits_per_byte` is comparable across tokenizers."""

    model: str
    domain: str
    bits_per_byte: float
    num_bytes: int
    num_tokens: int


@dataclass(frozen=True)
class Evaluation:
    """All cells of one evaluation; rows are models, columns are domains, and cells may be missing.

    `general` has a cell a model on text that nobody trained on: no domain, and part of no mean. `probes`,
    `questions` and `tasks` (of lm-evaluation-harness) are there where they were asked for.

    >>> Evaluation((Cell("base", "clinical", 0.81, 4000, 1000),)).bits_per_byte("base", "clinical")
    0.81
    """

    cells: tuple[Cell, ...]
    general: tuple[Cell, ...] = ()
    probes: tuple[ProbeScore, ...] = ()
    questions: tuple[QuestionScore, ...] = ()
    tasks: tuple[TaskScore, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """Row names, in order of first appearance."""
        return tuple(dict.fromkeys(cell.model for cell in self.cells))

    @property
    def domains(self) -> tuple[str, ...]:
        """Column names, in order of first appearance."""
        return tuple(dict.fromkeys(cell.domain for cell in self.cells))

    def bits_per_byte(self, model: str, domain: str) -> float | None:
        """The value of one cell; None where the model was not scored on the domain."""
        return next((c.bits_per_byte for c in self.cells if (c.model, c.domain) == (model, domain)), None)

    def general_bits_per_byte(self, model: str) -> float | None:
        """The value on general text; None where the model was not scored on it."""
        return next((c.bits_per_byte for c in self.general if c.model == model), None)

    def mean_bits_per_byte(self, model: str) -> float | None:
        """Plain mean over the domains; None unless the model was scored on all of them."""
        found = [self.bits_per_byte(model, domain) for domain in self.domains]
        values = [value for value in found if value is not None]
        return sum(values) / len(values) if values and len(values) == len(found) else None

    def to_json(self) -> str:
        """The text of `evaluation.json`."""
        parts: dict[str, tuple[Any, ...]] = {
            "general": self.general,
            "probes": self.probes,
            "questions": self.questions,
            "tasks": self.tasks,
        }
        values: dict[str, Any] = {"format": FORMAT, "cells": [asdict(cell) for cell in self.cells]}
        values.update({name: [asdict(score) for score in part] for name, part in parts.items() if part})
        return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Evaluation:
        """Read the text of an `evaluation.json`; `where` names it in errors.

        Raises:
            RunError: not JSON, another format, a field missing or out of bounds, or a cell or score named twice.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise malformed("JSON", f"unreadable text: {error}", where) from None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            got = f"format {values.get('format')!r}" if isinstance(values, dict) else type(values).__name__
            raise malformed(f"an object of format {FORMAT}", got, where)
        return cls(
            _read_cells(values.get("cells"), where),
            _read_cells(values.get("general", []), where),
            read_scores(ProbeScore, values.get("probes"), "probes", where),
            read_scores(QuestionScore, values.get("questions"), "questions", where),
            read_scores(TaskScore, values.get("tasks"), "tasks", where),
        )


def alone(evaluation: Evaluation, domain: str) -> str:
    """The row of the domain trained alone: `expert:<domain>`, or the baseline `local:<domain>` where there is none."""
    expert = EXPERT_PREFIX + domain
    return expert if expert in evaluation.models else LOCAL_PREFIX + domain


def is_alone(model: str, domain: str) -> bool:
    """Whether the row is that of the domain trained alone, in the run or as its baseline."""
    return model in (EXPERT_PREFIX + domain, LOCAL_PREFIX + domain)


def retained_gain(evaluation: Evaluation, model: str = COMBINED) -> dict[str, float | None]:
    """What `model` keeps of what each domain gained alone, on the domain's own text.

    (bpb base - bpb model) / (bpb base - bpb alone); 1 is as good as the domain alone, 0 is the base.

    Returns: domain to fraction; None where a cell is missing or the domain alone gained nothing.
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

    The mean stands only where a model was scored on every domain; general text, where there is any, is a
    column beside it. Below, where they can be computed: the retained gain in percent, and combined - base
    (negative is better; on general text it is the forgetting).
    """
    header = ["bits per byte", *evaluation.domains, "mean", *([GENERAL] if evaluation.general else [])]
    columns = [[evaluation.bits_per_byte(m, d) for m in evaluation.models] for d in evaluation.domains]
    columns.append([evaluation.mean_bits_per_byte(m) for m in evaluation.models])
    if evaluation.general:
        columns.append([evaluation.general_bits_per_byte(m) for m in evaluation.models])
    written = [_mark_lowest(column) for column in columns]
    rows = [[m, *(column[i] for column in written)] for i, m in enumerate(evaluation.models)]
    return table([header, *rows, *_summary_rows(evaluation)], marks="*") + "\n"


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


def _read_cells(rows: object, where: str) -> tuple[Cell, ...]:
    if not isinstance(rows, list):
        raise malformed("a list of cells", type(rows).__name__, where)
    cells = tuple(_read_cell(row, f"{where}, cell {i}") for i, row in enumerate(rows, start=1))
    _refuse_twins(cells, where)
    return cells


def _read_cell(row: object, where: str) -> Cell:
    names = [field.name for field in fields(Cell)]
    if not isinstance(row, Mapping) or set(row) != set(names):
        got = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        raise malformed(f"the fields {', '.join(names)}", got, where)
    for name in ("model", "domain"):
        if not isinstance(row[name], str) or not row[name]:
            raise malformed(f"{name} as text", repr(row[name]), where)
    for name in ("num_bytes", "num_tokens"):
        if type(row[name]) is not int or row[name] <= 0:
            raise malformed(f"{name} as a positive whole number", repr(row[name]), where)
    value: Any = row["bits_per_byte"]
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise malformed("bits_per_byte as a finite number >= 0", repr(value), where)
    return Cell(row["model"], row["domain"], float(value), row["num_bytes"], row["num_tokens"])


def _refuse_twins(cells: Sequence[Cell], where: str) -> None:
    seen: set[tuple[str, str]] = set()
    for cell in cells:
        if (cell.model, cell.domain) in seen:
            raise malformed("each model once a domain", f"{cell.model} on {cell.domain} twice", where)
        seen.add((cell.model, cell.domain))
