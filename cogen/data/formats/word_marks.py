"""Marks of a Word document that decide what of it is seen: fields, alternatives, merged cells, deleted rows."""

from __future__ import annotations

from typing import Any

from cogen.data.formats.word_styles import W, is_on, value

M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
V = "{urn:schemas-microsoft-com:vml}"


def closed_fields(root: Any) -> list[Any]:
    """The marks of all fields that begin and end in `root`."""
    found, begun = [], []
    for mark in root.iter(f"{W}fldChar"):
        kind = value(mark, "fldCharType")
        if kind == "begin":
            begun.append([mark])
        elif begun:
            begun[-1].append(mark)
            if kind == "end":
                found += begun.pop()
    return found


def not_chosen(root: Any) -> set[Any]:
    """Of contents that are there in several forms, for newer and older programs, all but the first that has text."""
    found = set()
    for alternatives in root.iter(f"{MC}AlternateContent"):
        forms = list(alternatives)
        chosen = next((form for form in forms if any(_has_text(e) for e in form.iter())), forms[0] if forms else None)
        found |= {form for form in forms if form is not chosen}
    return found


def _has_text(element: Any) -> bool:
    return element.tag in (f"{W}t", f"{M}t", f"{A}t") and bool((element.text or "").strip())


def is_merged(cell: Any) -> bool:
    """Whether the cell is covered by the one above it or to its left, or was deleted."""
    properties = cell.find(f"{W}tcPr")
    if properties is None:
        return False
    merges = [m for m in (properties.find(f"{W}vMerge"), properties.find(f"{W}hMerge")) if m is not None]
    is_covered = any(value(merge, "val") in ("", "continue") for merge in merges)
    return is_covered or properties.find(f"{W}cellDel") is not None


def is_row_unseen(row: Any) -> bool:
    properties = row.find(f"{W}trPr")
    if properties is None:
        return False
    return properties.find(f"{W}del") is not None or is_on(properties.find(f"{W}hidden"))


def is_continued(paragraph: Any) -> bool:
    """Whether the next paragraph continues the line: this one's end was deleted, or it is a large first letter."""
    marks = paragraph.find(f"{W}pPr/{W}rPr")
    if marks is not None and any(marks.find(f"{W}{name}") is not None for name in ("del", "moveFrom")):
        return True
    frame = paragraph.find(f"{W}pPr/{W}framePr")
    return frame is not None and value(frame, "dropCap") in ("drop", "margin")


def form_field(mark: Any) -> str:
    """What a check box or a drop-down list of the older kind shows."""
    entries = mark.findall(f"{W}ffData/{W}ddList/{W}listEntry")
    if entries:
        chosen = [value(r, "val") for r in mark.findall(f"{W}ffData/{W}ddList/{W}result")]
        place = int(chosen[0]) if chosen and chosen[0].isdigit() else 0
        return value(entries[place], "val") if place < len(entries) else ""
    box = mark.find(f"{W}ffData/{W}checkBox")
    if box is None:
        return ""
    state = box.find(f"{W}checked")
    return "\u2612" if is_on(state if state is not None else box.find(f"{W}default")) else "\u2610"
