"""Lines of text from a page: paragraphs, rows of cells, and text that stands apart from the paragraph it is in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

SUPERSCRIPT, SUBSCRIPT = "^", "_"
_EXPONENT = re.compile(r"[-+\u2212\u2013\u207b]?\d+([.,/]\d+)?")


def unread_names(unread: Mapping[str, int]) -> str:
    """What was not read, in words; `word(s) of navigation` is the name of one or more."""
    return ", ".join(f"{n} {name.replace('(s)', 's' if n > 1 else '')}" for name, n in sorted(unread.items()) if n)


@dataclass
class _Frame:
    """Where lines are collected: the page, a cell, or text that stands apart."""

    lines: list[str] = field(default_factory=list)
    line: list[str] = field(default_factory=list)
    label: str = ""
    after: list[str] = field(default_factory=list)
    rows: list[list[list[str]]] = field(default_factory=list)


class Layout:
    """Collects text in reading order.

    A row whose cells are one line each is a line with tabs between the cells; cells of several lines keep their lines,
    one cell after the other. What is opened is closed by the caller, in turn.
    """

    def __init__(self) -> None:
        self._frames = [_Frame()]

    @property
    def last(self) -> str:
        """The last character of the line, empty at its start."""
        line = self._frames[-1].line
        return line[-1][-1] if line else ""

    def add(self, text: str) -> None:
        """Continue the line."""
        if text:
            self._frames[-1].line.append(text)

    def add_script(self, text: str, mark: str) -> None:
        """Continue the line with a super- or subscript: `10^3`, `x_1`, but `1st`, `H2O`."""
        is_power = mark == SUPERSCRIPT and (self.last.isalnum() or self.last in tuple(")]}"))
        is_base = mark == SUBSCRIPT and self.last.isdigit()
        self.add(mark + text if (is_power or is_base) and _EXPONENT.fullmatch(text.strip()) else text)

    def label(self, text: str) -> None:
        """The bullet or number of the next line that has text."""
        self._frames[-1].label = text

    def end_line(self) -> None:
        """End the paragraph, if one is open. What stands apart from it follows it."""
        frame = self._frames[-1]
        line = "".join(frame.line).strip("\n").rstrip()
        if line.strip():
            frame.lines.append(f"{frame.label} {line.lstrip()}" if frame.label else line)
            frame.label = ""
        frame.line = []
        self._add_apart(frame)

    def open_apart(self) -> None:
        """Begin text that stands apart from the paragraph that is open, such as a text box or a footnote."""
        self._frames.append(_Frame())

    def close_apart(self, is_note: bool = False) -> None:
        """End it. A note follows the paragraph or row of the page itself, so that rows stay whole."""
        lines = self._close_frame()
        self._frames[0 if is_note else -1].after += lines

    def open_row(self) -> None:
        self.end_line()
        self._frames[-1].rows.append([])

    def open_cell(self) -> None:
        self.end_line()
        self._frames.append(_Frame())

    def close_cell(self) -> None:
        lines, rows = self._close_frame(), self._frames[-1].rows
        if rows:
            rows[-1].append(lines)
        else:  # a cell outside of any row, in a broken page
            self._frames[-1].lines += lines

    def close_row(self) -> None:
        self.end_line()
        frame = self._frames[-1]
        cells = frame.rows.pop()
        if all(len(cell) <= 1 and "\n" not in "".join(cell) for cell in cells):
            line = "\t".join("".join(cell).replace("\t", " ").strip() for cell in cells).rstrip()
            frame.lines += [line] if line.strip() else []
        else:
            frame.lines += [line for cell in cells for line in cell]
        self._add_apart(frame)

    def text(self) -> str:
        """All lines so far."""
        self.end_line()
        return "\n".join(self._frames[0].lines)

    def _add_apart(self, frame: _Frame) -> None:
        if not frame.rows:
            frame.lines += frame.after
            frame.after = []

    def _close_frame(self) -> list[str]:
        self.end_line()
        return self._frames.pop().lines
