"""The scores of a finished run on stdout, for `cogen simulate` and `cogen run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cogen.console import print_json

if TYPE_CHECKING:
    from cogen.evaluate.seed_summary import SeedSummary
    from cogen.runs import RunFolder


def print_scores(run: RunFolder, page: Path, as_json: bool, seed_summary: SeedSummary | None = None) -> None:
    """Print the evaluation of `run`, or the summary of its seeds, and where its adapter and its report are.

    Args:
        page: the run's report.
        as_json: print one JSON object instead.
    """
    from cogen.evaluate.matrix import format_table, retained_gain
    from cogen.evaluate.run_scores import read_evaluation
    from cogen.evaluate.seed_summary_file import SeedSummaryFile
    from cogen.evaluate.seed_summary_text import format_seed_summary, member_lines

    evaluation = read_evaluation(run)
    if as_json:
        found = {"run": str(run.path), "retained_gain": retained_gain(evaluation), **evaluation.model_dump()}
        if seed_summary is not None:
            found["seed_summary"] = SeedSummaryFile.of(seed_summary).model_dump()
        print_json(found)
        return
    print("bits per byte on held-out text (lower is better)\n")
    if seed_summary is None:
        print(format_table(evaluation))
    else:
        print(format_seed_summary(seed_summary))
        print("\n".join(member_lines(seed_summary)))
    print(f"\ncombined adapter: {run.merged}\nreport: {page}")
