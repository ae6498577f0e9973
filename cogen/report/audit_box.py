"""The section "What this model remembers" of report and model card: an audit in sentences, a chart and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from markupsafe import Markup

from cogen.audit.record import Audit, Estimate, notes
from cogen.report.audit_table import attack_cells, canary_cells, interval, is_round, short_name, table_cells
from cogen.report.audit_text import GUESSING, absence, verdict_lines
from cogen.report.charts import NARROW, WIDE, Chart
from cogen.report.html import fragment
from cogen.report.markdown import escaped, markdown_table
from cogen.report.record import RunRecord
from cogen.report.svg import Plot, drawing, label, shorten, text_width
from cogen.report.units import percent

ROW_HEIGHT, HEAD_HEIGHT, TOP = 26, 24, 28
LOWEST = 0.4


@dataclass(frozen=True)
class Dot:
    """A model's figure; `kind` is the class name of its colour."""

    name: str
    share: Estimate
    kind: str

    @property
    def text(self) -> str:
        return f"{percent(self.share.value)} ({interval(self.share)})"


def audit_box(record: RunRecord) -> Markup:
    """The box, or one line that the run was not audited; empty where there is no adapter to audit."""
    audit = record.artifacts.audit
    if audit is None:
        return fragment("audit.html.j2", audit=None, absence=absence(record) if record.adapters else None)
    members = [row.membership for row in audit.rows]
    return fragment(
        "audit.html.j2",
        audit=audit,
        verdict=verdict_lines(audit),
        drawing=audit_chart(audit),
        rows=table_cells(audit),
        rounds=table_cells(audit, rounds=True),
        attacks=attack_cells(audit),
        canaries=canary_cells(audit),
        notes=notes(audit),
        num_members=max((m.num_members for m in members), default=0),
        num_others=max((m.num_others for m in members), default=0),
    )


def audit_markdown(record: RunRecord) -> str:
    """The section of the model card: the same as sentences and tables, or that there is no audit."""
    audit = record.artifacts.audit
    if audit is None:
        found = absence(record)
        return f"{found.text} `{found.command}` does it." if found.command else found.text
    header = [
        "domain",
        "model",
        "told apart",
        "95% interval",
        "found at 1%",
        "continued, trained",
        "unseen",
        "personal",
    ]
    rows = [list(astuple(cells)) for cells in table_cells(audit)]
    explained = (
        f"Told apart: of pairs of a trained and an unseen passage of {audit.window_tokens} tokens, those in which the "
        "trained one is named; 50% is guessing. Found at 1%: trained passages found if one in a hundred unseen ones is "
        f"named too. Continued: passages of which the model writes the next {audit.continuation_tokens} tokens word for "
        f"word after {audit.prefix_tokens}. Personal: values of personal data that it completes."
    )
    parts = [" ".join(map(escaped, verdict_lines(audit))), markdown_table(header, rows), explained]
    if audit.canaries:
        names = ["canaries of", "times planted", "number", "ranked first", "exposure", "found at 1%"]
        parts.append(markdown_table(names, canary_cells(audit)))
    if lines := notes(audit):
        parts.append(" ".join(f"{escaped(line)}." for line in lines))
    return "\n\n".join(parts)


def audit_chart(audit: Audit) -> Chart | None:
    """The likelihood ratio's AUC by domain and model; None where no model but the base was audited."""
    groups: dict[str, list[Dot]] = {}
    for row in audit.rows:
        ratio = row.membership.figures("ratio")
        if ratio is not None and not is_round(row):
            kind = "worse" if ratio.auc.low > GUESSING else "better"
            groups.setdefault(row.domain, []).append(Dot(short_name(row), ratio.auc, kind))
    if not groups:
        return None
    title = "Trained passages told from others, by domain and model"
    notes = (
        "A dot is the share of pairs of a trained and an unseen passage in which the trained one is named; the line is "
        "its 95% interval. Orange: the interval lies above guessing.",
    )
    return Chart(dot_chart(groups, WIDE, title), dot_chart(groups, NARROW, title), notes=notes)


def dot_chart(groups: Mapping[str, Sequence[Dot]], width: int, title: str) -> Markup:
    """Dots with intervals in groups, each under its name, with a line at guessing.

    Args:
        width: of the drawing [pixels].
    """
    dots = [dot for group in groups.values() for dot in group]
    names = min(max(text_width(dot.name) for dot in dots), 0.3 * width) + 12
    room = max(text_width(dot.text) for dot in dots)
    low = min(LOWEST, *(math.floor(10 * dot.share.low) / 10 for dot in dots), LOWEST)
    bottom = TOP + HEAD_HEIGHT * len(groups) + ROW_HEIGHT * len(dots)
    plot = Plot(low, 1.0, 0, 1, names + 14, width - room - 24, TOP, bottom)
    marks = ((GUESSING, "50% = guessing"), (1.0, "100%"))
    parts = [label(plot.x(share), 16, heading, "middle", "soft") for share, heading in marks]
    at = float(TOP)
    for name, group in groups.items():
        parts.append(label(0, at + 17, shorten(name, 0.85 * width), "start", "value", full=name))
        at += HEAD_HEIGHT
        for share, _ in marks:
            parts.append(Markup(f'<path class="axis" d="M{plot.x(share):.1f} {at:.1f}v{ROW_HEIGHT * len(group)}"/>'))
        for dot in group:
            parts.append(_dot(plot, dot, at + ROW_HEIGHT / 2, width))
            at += ROW_HEIGHT
    return drawing(parts, width, bottom + 6, title)


def _dot(plot: Plot, dot: Dot, y: float, width: int) -> Markup:
    """One row: name, interval, dot, and the figures at the right."""
    left, middle, right = (plot.x(share) for share in (dot.share.low, dot.share.value, dot.share.high))
    line = Markup(f'<path class="span %s" d="M{left:.1f} {y:.1f}H{right:.1f}"/>') % dot.kind
    point = Markup(f'<circle class="mark %s" cx="{middle:.1f}" cy="{y:.1f}" r="5"/>') % dot.kind
    name = label(12, y + 4.5, shorten(dot.name, plot.left - 22), "start", full=dot.name)
    return name + line + point + label(width - 2, y + 4.5, dot.text, "end", "value")
