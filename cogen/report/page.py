"""A run folder -> report.html, one page that needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from cogen.analysis.contributions import ContributionsFile
from cogen.analysis.diagnosis_text import advice
from cogen.evaluate.matrix import Evaluation
from cogen.evaluate.seed_summary_text import joining_lines
from cogen.files import write_file
from cogen.report import units
from cogen.report.charts import gain_chart, loss_chart, round_chart
from cogen.report.clients import client_rows
from cogen.report.headline import forgetting, headline, warning, working_seconds
from cogen.report.heat import heat_rows, legend
from cogen.report.model_card import card_path, model_card
from cogen.report.record import ReplyEvent, RunRecord, read_run
from cogen.report.seeds import forgotten, verdict


@dataclass(frozen=True)
class Row:
    """A line of the table of rounds; the last one sums up."""

    name: str
    clients: str
    num_tokens: int
    bits_per_byte_before: float | None
    bits_per_byte_after: float | None
    bytes_up: int
    bytes_down: int
    seconds: float
    energy_cut_frac: float | None


def write_report(run: Path) -> Path:
    """Write `run/report.html`, from whatever the run folder holds so far, and MODEL_CARD.md beside a merged adapter.

    Returns: the path of the page. The same folder gives the same page, byte for byte.
    Raises:
        RunError: there is no run in the folder, its evaluation is malformed, or the page cannot be written.

    >>> write_report(Path("runs/quickstart"))  # doctest: +SKIP
    PosixPath('runs/quickstart/report.html')
    """
    path, record = run / "report.html", read_run(run)
    if record.artifacts.merged is not None:
        write_file(card_path(run), model_card(record).encode())
    write_file(path, render(record).encode())
    return path


def template(name: str) -> Template:
    """A template of this package; texts put into it are escaped, and a missing one is an error."""
    environment = Environment(
        loader=PackageLoader("cogen.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def render(record: RunRecord) -> str:
    """The page as HTML; every text of the run is escaped."""
    rows = [_row(record, number) for number in record.rounds]
    evaluation, artifacts = record.evaluation, record.artifacts
    scores = evaluation or Evaluation(cells=())
    return template("page.html.j2").render(
        record=record,
        units=units,
        warning=warning(record),
        headline=headline(record),
        verdict=verdict(artifacts.seed_summary),
        forgetting=forgetting(record),
        members=list(joining_lines(artifacts.seed_summary)) if artifacts.seed_summary else [],
        scores=scores,
        forgotten=forgotten(scores, record.started.domains if record.started else ()),
        contributed=_contributed(artifacts.contributions),
        diagnosis_advice=advice(artifacts.diagnosis) if artifacts.diagnosis else "",
        clients=client_rows(record),
        facts=_facts(record, rows),
        heat=heat_rows(evaluation) if evaluation else [],
        heat_legend=legend(),
        gain_chart=gain_chart(evaluation) if evaluation else None,
        loss_chart=loss_chart(record),
        round_chart=round_chart(record),
        rows=rows,
        total=_total(rows) if len(rows) > 1 else None,
    )


def _contributed(found: ContributionsFile | None) -> list[str]:
    """The domains of a table of contributions."""
    return list(dict.fromkeys(d for row in found.adapters.values() for d in row)) if found else []


def _row(record: RunRecord, number: int) -> Row:
    """The finished round as it was reported, or the sum of the replies that an open round has."""
    done = record.rounds[number]
    if done is None:
        replies = [reply for reply in record.replies if reply.round == number]
        return _open_row(number, replies)
    return Row(
        str(number),
        f"{done.num_valid} of {done.num_clients}",
        done.num_tokens,
        done.bits_per_byte_before,
        done.bits_per_byte_after,
        done.bytes_up,
        done.bytes_down,
        done.seconds,
        done.energy_cut_frac,
    )


def _open_row(number: int, replies: list[ReplyEvent]) -> Row:
    return Row(
        f"{number}, not finished",
        f"{len(replies)} so far",
        sum(r.num_tokens for r in replies),
        None,
        None,
        sum(r.bytes_up for r in replies),
        sum(r.bytes_down for r in replies),
        max((r.seconds for r in replies), default=0.0),
        None,
    )


def _total(rows: list[Row]) -> Row:
    return Row(
        "all",
        "",
        sum(r.num_tokens for r in rows),
        rows[0].bits_per_byte_before,
        next((r.bits_per_byte_after for r in reversed(rows) if r.bits_per_byte_after is not None), None),
        sum(r.bytes_up for r in rows),
        sum(r.bytes_down for r in rows),
        sum(r.seconds for r in rows),
        None,
    )


def _facts(record: RunRecord, rows: list[Row]) -> list[tuple[str, str]]:
    """The few numbers at the top; what a folder does not tell is dropped."""
    facts = []
    if record.started:
        facts += [("base", record.started.base), ("domains", str(len(record.domains)))]
        done = sum(summary is not None for summary in record.rounds.values())
        facts.append(("rounds", f"{done} of {record.started.num_rounds}"))
    if rows:
        facts.append(("tokens trained", units.count(sum(row.num_tokens for row in rows))))
        facts.append(("sent in all", units.byte_size(sum(row.bytes_up + row.bytes_down for row in rows))))
    if record.moments:
        facts.append(("time", units.duration(working_seconds(record))))
    return facts
