"""A run -> the sections of its page, which are a whole report.html or, one by one, the live page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cogen.analysis.diagnosis_text import advice
from cogen.evaluate.matrix import Evaluation
from cogen.evaluate.scores import chosen_names
from cogen.evaluate.seed_summary_text import joining_lines
from cogen.files import write_file
from cogen.report import units
from cogen.report.audit_box import audit_box
from cogen.report.charts import Chart, gain_chart, loss_chart, round_chart
from cogen.report.clients import client_totals, clients_now
from cogen.report.event_text import describe
from cogen.report.headline import failure, forgetting, forgotten, headline, verdict, warning, working_seconds
from cogen.report.heat import heat_rows, legend, scores_so_far
from cogen.report.html import fragment, template
from cogen.report.model_card import card_path, model_card
from cogen.report.progress import (
    compared,
    done_frac,
    is_open,
    left_seconds,
    num_left_tokens,
    phase_text,
    quiet_seconds,
)
from cogen.report.reader import read_run
from cogen.report.record import RunRecord
from cogen.report.rounds import round_rows, total_row

Render = Callable[[RunRecord, bool], str]
# An open page is sent its tables whole again with every event; report.html has all their rows.
MAX_LIVE_ROWS = 200


def write_report(run: Path) -> Path:
    """Write `run/report.html` from what the run folder holds so far, and MODEL_CARD.md into the merged adapter's folder.

    Returns: the path of the page. The same folder gives the same page, byte for byte.
    Raises:
        RunError: there is no run in the folder, one of its files is malformed, or the page cannot be written.

    >>> write_report(Path("runs/quickstart"))  # doctest: +SKIP
    PosixPath('runs/quickstart/report.html')
    """
    path, record = run / "report.html", read_run(run)
    if record.artifacts.merged is not None:
        write_file(card_path(run), model_card(record).encode())
    write_file(path, render(record).encode())
    return path


def render(record: RunRecord) -> str:
    """The report as HTML; every text of the run is escaped."""
    sections = {name: html for name, section in SECTIONS.items() if (html := section(record, False))}
    return template("report.html.j2").render(title=f"{record.name} · CO-GEN report", sections=sections)


def _alarm(record: RunRecord, is_live: bool) -> Markup:
    text = failure(record) if is_live else warning(record)
    quiet = quiet_seconds(record) if is_live and is_open(record) else None
    return fragment("alarm.html.j2", text=text, quiet_seconds=quiet)


def _title(record: RunRecord, is_live: bool) -> Markup:
    return fragment("title.html.j2", name=record.name)


def _phase(record: RunRecord, is_live: bool) -> Markup:
    return fragment("phase.html.j2", phase=phase_text(record), is_over=_is_over(record)) if is_live else Markup("")


def _result(record: RunRecord, is_live: bool) -> Markup:
    if is_live and record.phase == "waiting" and record.evaluation is None:
        return Markup("")
    sentences = [verdict(record.artifacts.seed_summary), headline(record), forgetting(record)]
    return fragment("result.html.j2", sentences=[s for s in sentences if s], is_main=not is_live or _is_over(record))


def _overview(record: RunRecord, is_live: bool) -> Markup:
    """The few numbers at the top; numbers that the folder does not have are omitted."""
    rows, overview = round_rows(record), list[tuple[str, str]]()
    if record.started:
        overview += [("base", record.started.base), ("domains", str(len(record.domains)))]
        done = sum(summary is not None for summary in record.rounds.values())
        overview.append(("rounds", f"{done} of {record.started.num_rounds}"))
    if rows:
        overview.append(("tokens trained", units.count(sum(row.num_tokens for row in rows))))
        overview.append(("sent in all", units.byte_size(sum(row.bytes_up + row.bytes_down for row in rows))))
    if record.moments:
        overview.append(("time", units.duration(working_seconds(record))))
    is_followed, left = is_live and is_open(record), left_seconds(record)
    return fragment(
        "overview.html.j2",
        overview=overview,
        record=record,
        is_followed=is_followed,
        done_frac=done_frac(record),
        finish_seconds=None if left is None else record.updated + left,
        num_left_tokens=num_left_tokens(record),
    )


def _progress(record: RunRecord, is_live: bool) -> Markup:
    """Clients and baselines above the results, as long as they are what one looks for."""
    return Markup("") if _is_over(record) else _clients(record)


def _trained(record: RunRecord, is_live: bool) -> Markup:
    """The same below the results, once there are some."""
    return _clients(record) if _is_over(record) else Markup("")


def _clients(record: RunRecord) -> Markup:
    return fragment("clients.html.j2", record=record, clients=clients_now(record), compared=compared(record))


def _scores(record: RunRecord, is_live: bool) -> Markup:
    if is_live and _is_empty(record):
        return Markup("")
    shown = record.evaluation or scores_so_far(record)
    is_final = record.evaluation is not None
    return fragment(
        "scores.html.j2",
        domains=shown.domains,
        heat=heat_rows(shown),
        heat_legend=legend(),
        is_final=is_final,
        gaps=shown.gaps(),
    )


def _summary(record: RunRecord, is_live: bool) -> Markup:
    artifacts, scores = record.artifacts, record.evaluation or Evaluation(cells=())
    contributions = artifacts.contributions
    adapters = contributions.adapters.values() if contributions else ()
    return fragment(
        "summary.html.j2",
        seed_summary=artifacts.seed_summary,
        members=list(joining_lines(artifacts.seed_summary)) if artifacts.seed_summary else [],
        forgotten=forgotten(scores, record.started.domains if record.started else ()),
        scores=scores,
        chosen=chosen_names(scores.routing),
        routers=sorted({score.model for score in scores.routing}),
        contributions=contributions,
        contributed=list(dict.fromkeys(domain for row in adapters for domain in row)),
        diagnosis=artifacts.diagnosis,
        diagnosis_advice=advice(artifacts.diagnosis) if artifacts.diagnosis else "",
    )


def _remembered(record: RunRecord, is_live: bool) -> Markup:
    return audit_box(record)


def _gain(record: RunRecord, is_live: bool) -> Markup:
    intro = (
        "How much of the gain of each domain's own adapter over the base the combined model keeps on that domain's "
        "held-out text: 0% is the base, 100% the domain trained alone."
    )
    return _chart("gain", gain_chart(record.evaluation) if record.evaluation else None, "Retained gain", intro)


def _loss(record: RunRecord, is_live: bool) -> Markup:
    intro = "How badly each client's model predicted its training text while it read it. Lower is better."
    return _chart("loss", loss_chart(record), "Training loss", intro)


def _bits(record: RunRecord, is_live: bool) -> Markup:
    intro = "Each client's score on its own held-out text, before and after it trained."
    return _chart("bits", round_chart(record), "Held-out text, round by round", intro)


def _chart(name: str, drawing: Chart | None, heading: str, intro: str) -> Markup:
    macros: Any = template("chart.html.j2").module
    return Markup(macros.chart(drawing, heading, intro, name)) if drawing else Markup("")


def _rounds(record: RunRecord, is_live: bool) -> Markup:
    rows, first = round_rows(record), -MAX_LIVE_ROWS if is_live else 0
    return fragment(
        "rounds.html.j2",
        rows=rows[first:],
        total=total_row(rows),
        replies=record.replies[first:],
        is_relay=record.is_relay,
        dropped=record.dropped[first:],
        is_cut=is_live and max(map(len, (rows, record.replies, record.dropped))) > MAX_LIVE_ROWS,
    )


def _cost(record: RunRecord, is_live: bool) -> Markup:
    return fragment("cost.html.j2", clients=client_totals(record), run_metadata=record.artifacts.run_metadata)


def _events(record: RunRecord, is_live: bool) -> Markup:
    lines = [{"time": str(values.get("time", "")), "text": describe(values)} for values in reversed(record.lines)]
    return fragment("events.html.j2", lines=lines, num_events=len(record.moments))


def _words(record: RunRecord, is_live: bool) -> Markup:
    return Markup("") if is_live and _is_empty(record) else fragment("words.html.j2")


def _settings(record: RunRecord, is_live: bool) -> Markup:
    if is_live and _is_empty(record):
        return Markup("")
    return fragment("settings.html.j2", record=record, artifacts=record.artifacts)


def _is_empty(record: RunRecord) -> bool:
    """Whether the folder has nothing yet that a page could explain."""
    return not record.moments and record.evaluation is None and not record.config


def _is_over(record: RunRecord) -> bool:
    """Whether the results come first: the run is finished, or nothing but an evaluation is known of it."""
    return record.phase == "finished" or (record.phase == "waiting" and record.evaluation is not None)


SECTIONS: dict[str, Render] = {
    "alarm": _alarm,
    "title": _title,
    "phase": _phase,
    "result": _result,
    "overview": _overview,
    "progress": _progress,
    "scores": _scores,
    "summary": _summary,
    "retained": _gain,
    "remembered": _remembered,
    "training": _loss,
    "heldout": _bits,
    "totals": _rounds,
    "trained": _trained,
    "cost": _cost,
    "happened": _events,
    "words": _words,
    "settings": _settings,
}
# A training step changes no other section.
STEP_SECTIONS = ("alarm", "overview", "progress", "training", "trained")
