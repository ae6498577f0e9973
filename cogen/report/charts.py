"""The charts of a report, each drawn twice: wide with labels, and narrow (for a phone) with a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cogen.evaluate.matrix import BASE, COMBINED, Evaluation, alone, retained_gain
from cogen.report.events import ReplyEvent
from cogen.report.record import RunRecord
from cogen.report.svg import Axis, Series, bar_chart, line_chart
from cogen.report.units import short_count

WIDE = 880
NARROW = 340


@dataclass(frozen=True)
class Chart:
    """A drawing in two widths, the legend for the narrow one, and notes on how to read it."""

    wide: Markup
    narrow: Markup
    legend: tuple[Series, ...] = ()
    notes: tuple[str, ...] = ()


def gain_chart(evaluation: Evaluation) -> Chart | None:
    """Retained gain by domain; None unless base, combined and a model of one domain alone were scored."""
    domains = [d for d in evaluation.domains if alone(evaluation, d) in evaluation.models]
    if not domains or not {BASE, COMBINED} <= set(evaluation.models):
        return None
    gains = {d: g for d, g in retained_gain(evaluation).items() if d in domains}
    bars = [(d, gain, "worse" if gain is not None and gain < 0 else "better") for d, gain in gains.items()]
    notes = tuple(f"{d}: no value, {_why_no_gain(evaluation, d)}." for d, gain in gains.items() if gain is None)
    title = "Retained gain by domain"
    return Chart(bar_chart(bars, WIDE, title), bar_chart(bars, NARROW, title), notes=notes)


def loss_chart(record: RunRecord) -> Chart | None:
    """Training loss by tokens for each client; None where nothing was logged."""
    curves = record.curves
    series = [Series(d, curves[d].points, i) for i, d in enumerate(record.domains) if d in curves]
    size = max((curve.num_steps_per_point for curve in curves.values()), default=1)
    notes = [f"A point is the mean of up to {size} logged steps."] if size > 1 else []
    if any(not math.isfinite(p[1]) for s in series for p in s.points):
        notes.append("A gap in a line is where the loss was not a finite number.")
    axis = Axis("tokens read by the client", short_count)
    return _lines(series, axis, "loss [nats per token]", "Training loss by tokens", notes)


def round_chart(record: RunRecord) -> Chart | None:
    """Held-out bits per byte from round to round; None for a single round."""
    if len(record.rounds) < 2:
        return None
    replies: dict[str, list[ReplyEvent]] = {domain: [] for domain in record.domains}
    for reply in record.replies:
        replies[reply.domain].append(reply)
    curves = {domain: round_points(found) for domain, found in replies.items()}
    # A domain has the same colour in all charts: that of its place in the run.
    series = [Series(domain, points, i) for i, (domain, points) in enumerate(curves.items()) if points]
    notes = [
        "Each line goes from the start to the end of a client's training in every round.",
        f"The vertical step between two rounds is the effect of {'other visits' if record.is_relay else 'merging'}.",
    ]
    if any(math.isnan(p[1]) for s in series for p in s.points):
        notes.append("A gap in a line is a round in which the client did not count.")
    axis = Axis("rounds", lambda value: f"{value:g}", smallest_step=1.0)
    return _lines(series, axis, "bits per byte", "Held-out bits per byte by round", notes)


def round_points(replies: Sequence[ReplyEvent]) -> tuple[tuple[float, float], ...]:
    """The scores before and after each round; a point that is not a number stands for missing rounds."""
    points: list[tuple[float, float]] = []
    last = 0
    for reply in replies:
        ends = ((reply.round - 1, reply.bits_per_byte_before), (reply.round, reply.bits_per_byte_after))
        found = [(float(at), value) for at, value in ends if value is not None]
        if points and found and reply.round > last + 1:
            points.append((math.nan, math.nan))
        points += found
        last = reply.round if found else last
    return tuple(points)


def _lines(series: Sequence[Series], x: Axis, y_title: str, title: str, notes: Sequence[str]) -> Chart | None:
    wide = line_chart(series, x, y_title, WIDE, title, labels=True)
    narrow = line_chart(series, x, y_title, NARROW, title, labels=False)
    return Chart(wide, narrow, tuple(series), tuple(notes)) if wide else None


def _why_no_gain(evaluation: Evaluation, domain: str) -> str:
    rows = (BASE, alone(evaluation, domain), COMBINED)
    scored = all(evaluation.bits_per_byte(row, domain) is not None for row in rows)
    return "since training it alone gained nothing over the base" if scored else "since a score is missing"
