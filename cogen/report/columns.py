"""Charts of counts as inline SVG: columns for bins, bars for parts of a total."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from cogen.report.svg import Plot, drawing, label, shorten, text_width, ticks, y_axis
from cogen.report.units import percent, short_count

ROW_HEIGHT = 30


def column_chart(columns: Sequence[tuple[str, int]], x_title: str, y_title: str, width: int, title: str) -> Markup:
    """A column for each bin, with its name below it and, where there is room, its count above it.

    Args:
        columns: name and count of each bin, from left to right.
    """
    height = 270
    y_ticks = ticks(0, max(count for _, count in columns), 5, smallest_step=1.0)
    numbers = [short_count(value) for value in y_ticks]
    left = max(map(text_width, numbers)) + 12
    plot = Plot(0, len(columns), 0, y_ticks[-1], left, width - 8, 30, height - 44)
    parts = [y_axis(plot, y_ticks, numbers, y_title)]
    step = (plot.right - plot.left) / len(columns)
    every = -(-max(text_width(name) + 6 for name, _ in columns) // step)
    for i, (name, count) in enumerate(columns):
        middle, top = plot.x(i + 0.5), plot.y(count)
        size = f'width="{0.84 * step:.1f}" height="{plot.bottom - top:.1f}"'
        hint = Markup("<title>%s: %s</title>") % (name, f"{count:,}")
        parts.append(
            Markup(f'<rect class="bar better" x="{middle - 0.42 * step:.1f}" y="{top:.1f}" {size}>%s</rect>') % hint
        )
        if i % every == 0:
            parts.append(label(middle, plot.bottom + 20, name, "middle", "soft"))
        if count and text_width(short_count(count)) < step:
            parts.append(label(middle, top - 5, short_count(count), "middle"))
    parts.append(Markup(f'<path class="axis" d="M{plot.left:.1f} {plot.bottom:.1f}H{plot.right:.1f}"/>'))
    parts.append(label((plot.left + plot.right) / 2, plot.bottom + 39, x_title, "middle", "soft"))
    return drawing(parts, width, height, title)


def share_chart(bars: Sequence[tuple[str, int, str]], total: int, width: int, title: str) -> Markup:
    """Parts of a total as bars, each followed by its count and share.

    Args:
        bars: name, count and a class name for the colour.
    """
    names = min(max([40.0, *(text_width(name) for name, _, _ in bars)]), 0.42 * width)
    values = [f"{count:,} · {percent(count / max(1, total), 1)}" for _, count, _ in bars]
    room = max(map(text_width, values)) + 10
    longest = max([1, *(count for _, count, _ in bars)])
    parts = []
    for i, ((name, count, kind), value) in enumerate(zip(bars, values, strict=True)):
        middle = ROW_HEIGHT * i + 16
        size = max(1.0 if count else 0.0, (width - names - 14 - room) * count / longest)
        parts.append(label(names, middle + 4.5, shorten(name, names + 1), "end", full=name))
        parts.append(
            Markup(
                f'<rect class="bar %s" x="{names + 14:.1f}" y="{middle - 9}" width="{size:.1f}" height="18" rx="2"/>'
            )
            % kind
        )
        parts.append(label(names + 14 + size + 8, middle + 4.5, value, "start", "value"))
    return drawing(parts, width, ROW_HEIGHT * len(bars) + 4, title)
