"""Charts as inline SVG: a bar chart and a line chart. Colours come from the page's style sheet."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cogen.report.units import NOTHING, decimals, percent

FONT_SIZE = 13
LINE_HEIGHT = 17
NUM_COLOURS = 8


@dataclass(frozen=True)
class Series:
    """A named line; `colour` is an index into the page's palette, None for plain ink."""

    name: str
    points: tuple[tuple[float, float], ...]
    colour: int | None = None


@dataclass(frozen=True)
class Axis:
    """A horizontal axis: its title, how a tick is written, and the smallest step between ticks."""

    title: str
    write: Callable[[float], str]
    smallest_step: float = 0.0


@dataclass(frozen=True)
class Plot:
    """The bounds of the data, and the box of pixels in which they are drawn."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float
    left: float
    right: float
    top: float
    bottom: float

    def x(self, value: float) -> float:
        return self.left + (value - self.low_x) / (self.high_x - self.low_x) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.low_y) / (self.high_y - self.low_y) * (self.bottom - self.top)


def ticks(low: float, high: float, most: int, smallest_step: float = 0.0) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that enclose [low, high], about `most` of them."""
    if high - low < 1e-9 * max(1.0, abs(high)):
        margin = max(0.05 * abs(high), smallest_step, 1e-6)
        low, high = low - margin, high + margin
    raw = max((high - low) / max(most, 1), smallest_step)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def spread(wanted: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """Positions near `wanted`, in the same order, at least `gap` apart and inside [top, bottom] if they fit."""
    placed: list[float] = []
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for i in order:
        placed.append(max(wanted[i], placed[-1] + gap if placed else top))
    limit = bottom
    for k in range(len(placed) - 1, -1, -1):
        placed[k] = min(placed[k], limit)
        limit = placed[k] - gap
    return [placed[order.index(i)] for i in range(len(wanted))]


def shorten(text: str, room: float) -> str:
    """The text, cut with an ellipsis to about `room` pixels."""
    if text_width(text) <= room:
        return text
    while text and text_width(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"


def text_width(text: str) -> float:
    """The width in pixels, rather too large than too small: the font is not known."""
    return sum(FONT_SIZE * (1.0 if unicodedata.east_asian_width(c) in "WF" else 0.58) for c in text)


def bar_chart(bars: Sequence[tuple[str, float | None, str]], width: int, title: str) -> Markup:
    """Fractions as bars from 0, with lines at 0 and 100%, and the values in a column at the right.

    Args:
        bars: name, fraction (None where there is none) and a class name for the colour.
        width: of the drawing [pixels]. Bars are cut at -100% and 200%; the written value is not.
    """
    values = [min(max(value, -1.0), 2.0) for _, value, _ in bars if value is not None]
    names = min(max([40.0, *(text_width(name) for name, _, _ in bars)]), 0.36 * width)
    low, high = min(0.0, *values, 0.0), max(1.0, *values, 1.0)
    bottom = 34 + 30 * len(bars)
    plot = Plot(low, high, 0, 1, names + 14, width - 64, 26, bottom)
    # The two headings are about 60 and 90 pixels wide; with less room only the percentages are written.
    roomy = plot.x(1.0) - plot.x(0.0) > 100
    parts = [_reference(plot, 0.0, "0% = base" if roomy else "0%")]
    parts.append(_reference(plot, 1.0, "100% = expert" if roomy else "100%"))
    for i, (name, value, kind) in enumerate(bars):
        middle = 26 + 4 + 30 * i + 15
        parts.append(label(names, middle + 4.5, shorten(name, names + 1), "end", full=name))
        if value is not None:
            ends = sorted((plot.x(0.0), plot.x(min(max(value, -1.0), 2.0))))
            size = f'width="{ends[1] - ends[0]:.1f}" height="18"'
            parts.append(Markup(f'<rect class="bar %s" x="{ends[0]:.1f}" y="{middle - 9}" {size} rx="2"/>') % kind)
        parts.append(label(width - 2, middle + 4.5, NOTHING if value is None else percent(value), "end", "value"))
    return drawing(parts, width, bottom + 6, title)


def line_chart(series: Sequence[Series], x: Axis, y_title: str, width: int, title: str, *, labels: bool) -> Markup:
    """Lines over two linear axes. A point that is not finite is dropped and breaks the line.

    Args:
        labels: whether each line's name is written at its right end; otherwise the page shows a legend.
    """
    finite = [p for s in series for p in s.points if all(map(math.isfinite, p))]
    if not finite:
        return Markup("")
    height = max(300 if labels else 250, 80 + LINE_HEIGHT * len(series) * labels)
    x_ticks = ticks(min(p[0] for p in finite), max(p[0] for p in finite), width // 80, x.smallest_step)
    y_ticks = ticks(min(p[1] for p in finite), max(p[1] for p in finite), 7)
    room = min(max(text_width(s.name) for s in series), 0.28 * width) + 26 if labels else 22
    numbers = same_decimals(y_ticks)
    left = max(map(text_width, numbers)) + 12
    plot = Plot(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1], left, width - room, 30, height - 44)
    parts = [y_axis(plot, y_ticks, numbers, y_title), _x_axis(plot, x_ticks, x)]
    parts += [_line(plot, s) for s in series]
    if labels:
        parts.append(_end_labels(plot, series, width))
    return drawing(parts, width, height, title)


def same_decimals(values: Sequence[float]) -> list[str]:
    """The values as text, all with as many decimals as the step between them needs."""
    digits = max(0, -math.floor(math.log10(values[1] - values[0]) + 1e-9))
    return [decimals(value, digits) for value in values]


def y_axis(plot: Plot, values: Sequence[float], numbers: Sequence[str], title: str) -> Markup:
    """Horizontal grid lines with their numbers, and the title above them."""
    parts = [label(2, 14, title, "start", "soft")]
    for value, number in zip(values, numbers, strict=True):
        at = plot.y(value)
        parts.append(Markup(f'<path class="grid" d="M{plot.left:.1f} {at:.1f}H{plot.right:.1f}"/>'))
        parts.append(label(plot.left - 8, at + 4.5, number, "end", "soft"))
    return Markup("").join(parts)


def _x_axis(plot: Plot, values: Sequence[float], axis: Axis) -> Markup:
    """The line at the bottom, with ticks, numbers and title."""
    parts = [Markup(f'<path class="axis" d="M{plot.left:.1f} {plot.bottom:.1f}H{plot.right:.1f}"/>')]
    for value in values:
        at = plot.x(value)
        parts.append(Markup(f'<path class="axis" d="M{at:.1f} {plot.bottom:.1f}v5"/>'))
        parts.append(label(at, plot.bottom + 20, axis.write(value), "middle", "soft"))
    parts.append(label((plot.left + plot.right) / 2, plot.bottom + 39, axis.title, "middle", "soft"))
    return Markup("").join(parts)


def _line(plot: Plot, series: Series) -> Markup:
    """One path, interrupted at gaps, and a dot at its end."""
    path, pen_up, last = "", True, None
    for point in series.points:
        if not all(map(math.isfinite, point)):
            pen_up = True
            continue
        last = (plot.x(point[0]), plot.y(point[1]))
        path += f"{'M' if pen_up else 'L'}{last[0]:.1f} {last[1]:.1f}"
        pen_up = False
    if last is None:
        return Markup("")
    name = Markup("<title>%s</title>") % series.name
    line = Markup(f'<path class="line {_colour(series)}" d="{path}">%s</path>') % name
    return line + Markup(f'<circle class="dot {_colour(series)}" cx="{last[0]:.1f}" cy="{last[1]:.1f}" r="3"/>')


def _end_labels(plot: Plot, series: Sequence[Series], width: int) -> Markup:
    """Names at the right edge, pushed apart, each with a dotted line to the end of its curve."""
    ends = [(s, [p for p in s.points if all(map(math.isfinite, p))]) for s in series]
    named = [(s, plot.x(points[-1][0]), plot.y(points[-1][1])) for s, points in ends if points]
    heights = spread([at for _, _, at in named], LINE_HEIGHT, plot.top, plot.bottom)
    parts = []
    for (s, x, y), at in zip(named, heights, strict=True):
        start = plot.right + 18
        parts.append(
            Markup(
                f'<path class="tie {_colour(s)}" d="M{x + 5:.1f} {y:.1f}L{start - 12:.1f} {at:.1f}H{start - 4:.1f}"/>'
            )
        )
        parts.append(label(start, at + 4.5, shorten(s.name, width - start), "start", f"name {_colour(s)}", s.name))
    return Markup("").join(parts)


def _colour(series: Series) -> str:
    """`c0` to `c7`, dashed from the ninth series on, or `ink`."""
    if series.colour is None:
        return "ink"
    return f"c{series.colour % NUM_COLOURS}" + (" dashed" if series.colour >= NUM_COLOURS else "")


def _reference(plot: Plot, value: float, heading: str) -> Markup:
    at = plot.x(value)
    line = Markup(f'<path class="axis" d="M{at:.1f} {plot.top:.1f}V{plot.bottom:.1f}"/>')
    return line + label(at, 16, heading, "middle", "soft")


def label(x: float, y: float, text: str, anchor: str, kind: str = "", full: str = "") -> Markup:
    name = Markup("<title>%s</title>") % full if full and full != text else ""
    attributes = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}"'
    return Markup(f"<text {attributes}>%s%s</text>") % (text, name)


def drawing(parts: Sequence[Markup], width: int, height: float, title: str) -> Markup:
    box = f'viewBox="0 0 {width} {height:.0f}" width="{width}" height="{height:.0f}"'
    return Markup(f'<svg {box} role="img" aria-label="%s">%s</svg>') % (title, Markup("").join(parts))
