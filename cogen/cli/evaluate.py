"""`cogen evaluate`: bits per byte of adapters on held-out text; probes, questions and tasks beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    base: Annotated[str, typer.Option(help="Base model: a folder, a hub id, or a known name.")] = "smollm2-135m",
    adapter: Annotated[list[str], typer.Option(help="NAME=DIR; as often as you like.")] = [],  # noqa: B006
    data: Annotated[list[str], typer.Option(help="NAME=PATH of a corpus; its held-out part is read.")] = [],  # noqa: B006
    probes: Annotated[list[str], typer.Option(help="NAME=FILE of multiple-choice probes.")] = [],  # noqa: B006
    questions: Annotated[list[str], typer.Option(help="NAME=FILE of questions, some of which nobody can answer.")] = [],  # noqa: B006
    tasks: Annotated[str, typer.Option(help="Of lm-evaluation-harness, with commas between them.")] = "",
    task_folder: Annotated[Path | None, typer.Option(help="With tasks of your own in YAML.")] = None,
    task_limit: Annotated[int | None, typer.Option(help="Items a task; all of them without it.")] = None,
    out: Annotated[Path | None, typer.Option(help="evaluation.json to write.")] = None,
    heldout_frac: Annotated[float, typer.Option(help="As in training; 1 reads everything.")] = 0.05,
    max_heldout_tokens: Annotated[int, typer.Option(help="Per corpus.")] = 8192,
    sequence_length: Annotated[int, typer.Option(help="Window that a long document is cut into.")] = 512,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Score the base and adapters: bits per byte on held-out text, probes, made-up answers, tasks.

    Example: cogen evaluate --adapter combined=runs/quickstart/merged --data grid=seeds/grid.jsonl
    """
    from cogen.train.memory import tune_allocator

    tune_allocator()
    from cogen.cli.run_evaluate import Asked, Heldout, run_evaluate

    names = tuple(name.strip() for name in tasks.split(",") if name.strip())
    heldout = Heldout(tuple(data), heldout_frac, max_heldout_tokens, sequence_length)
    asked = Asked(heldout, tuple(probes), tuple(questions), names, task_folder, task_limit)
    run_evaluate(base, adapter, asked, out, as_json=as_json)
