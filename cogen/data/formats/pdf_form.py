"""What was typed onto the pages of a PDF: values of form fields and free text."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

MAX_PARENTS = 8
HIDDEN = 2  # flag of an annotation
PASSWORD = 1 << 13  # flag of a field of text
PUSH_BUTTON = 1 << 16  # flag of a button
OFF = ("/Off", "")


class Typed:
    """Values of form fields in the order of the pages, each once, whatever the number of its boxes."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()
        self.num_comments = 0

    def on(self, page: Any) -> list[str]:
        """Lines `name: value` for the fields of a page, and its free text."""
        found: list[str] = []
        with suppress(AttributeError, TypeError, KeyError):
            for reference in page.get("/Annots", ()) or ():
                note = reference.get_object()
                with suppress(AttributeError, TypeError, KeyError, ValueError):
                    found += self._lines(note)
        return found

    def _lines(self, note: Any) -> list[str]:
        kind, flags = note.get("/Subtype"), int(note.get("/F", 0))
        if flags & HIDDEN:
            return []
        if kind == "/Widget":
            name, value = _name(note), _value(note)
            if not value or (name, value) in self._seen:
                return []
            self._seen.add((name, value))
            return [f"{name}: {value}" if name else value]
        content = str(note.get("/Contents", "")).strip().replace("\r\n", "\n").replace("\r", "\n")
        if kind == "/FreeText" and content:
            return [content]
        self.num_comments += bool(content) and kind != "/Link"
        return []


def _inherited(field: Any, key: str) -> Any:
    """The value of `key` of a field or the nearest of its parents that has it."""
    for _ in range(MAX_PARENTS):
        if key in field:
            return field[key].get_object()
        if "/Parent" not in field:
            return None
        field = field["/Parent"].get_object()
    return None


def _name(field: Any) -> str:
    """The names of a field and its parents, from outside in."""
    names = []
    for _ in range(MAX_PARENTS):
        if "/T" in field:
            names.append(str(field["/T"].get_object()).strip())
        if "/Parent" not in field:
            break
        field = field["/Parent"].get_object()
    return ".".join(reversed(names))


def _value(field: Any) -> str:
    """What was typed or chosen; empty where nothing was, or where it is a password or a button to push."""
    kind, flags, value = _inherited(field, "/FT"), int(_inherited(field, "/Ff") or 0), _inherited(field, "/V")
    if value is None or kind == "/Sig" or (kind == "/Tx" and flags & PASSWORD):
        return ""
    if kind == "/Btn":
        return "" if flags & PUSH_BUTTON or str(value) in OFF else str(value).lstrip("/")
    if isinstance(value, list):
        return ", ".join(str(choice.get_object()).strip() for choice in value)
    text = value.get_data().decode("utf-8", "replace") if hasattr(value, "get_data") else str(value)
    return text.strip().replace("\r\n", "\n").replace("\r", "\n")
