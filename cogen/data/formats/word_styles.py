"""What a Word document's styles and lists add to its text: whether a run is hidden, and the number of a paragraph.

Source: ECMA-376, Part 1, 17.7 (styles) and 17.9 (numbering).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
NUM_LEVELS = 9
_ROMAN = (
    *((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x")),
    *((9, "ix"), (5, "v"), (4, "iv"), (1, "i")),
)


def value(element: Any, name: str) -> str:
    """An attribute, in whatever namespace; empty if there is none."""
    for key, found in element.attrib.items():
        if key.rpartition("}")[2] == name:
            return str(found)
    return ""


def is_on(element: Any) -> bool:
    """Whether a switch such as `<w:vanish/>` is there and on."""
    return element is not None and value(element, "val") not in ("0", "false", "off")


def _number(element: Any, default: int) -> int:
    text = "" if element is None else value(element, "val")
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else default


class Styles:
    """The styles of a document.

    Args:
        root: of the part `styles.xml`; None if the document has none.
    """

    def __init__(self, root: Any) -> None:
        found = [] if root is None else root.findall(f"{W}style")
        self._styles = {value(s, "styleId"): s for s in found}
        defaults = [s for s in found if value(s, "type") == "paragraph" and value(s, "default") in ("1", "true", "on")]
        self._default = value(defaults[0], "styleId") if defaults else ""
        self._hides = any(s.find(f"{W}rPr/{W}vanish") is not None for s in found)

    def is_hidden(self, run: Any) -> bool:
        """Whether the run's text is hidden: by itself, its style or its paragraph's, the nearest counts."""
        own = run.find(f"{W}rPr/{W}vanish")
        if own is not None or not self._hides:
            return is_on(own)
        style = run.find(f"{W}rPr/{W}rStyle")
        paragraph = next(run.iterancestors(f"{W}p"), None)
        names = [value(style, "val")] if style is not None else []
        names += [self.of_paragraph(paragraph)] if paragraph is not None else []
        switches = (s.find(f"{W}rPr/{W}vanish") for name in names for s in self.chain(name))
        return is_on(next((s for s in switches if s is not None), None))

    def of_paragraph(self, paragraph: Any) -> str:
        """The id of the paragraph's style."""
        style = paragraph.find(f"{W}pPr/{W}pStyle")
        return self._default if style is None else value(style, "val")

    def chain(self, name: str) -> Iterator[Any]:
        """A style and those that it is based on."""
        seen: set[str] = set()
        while name in self._styles and name not in seen:
            seen.add(name)
            yield self._styles[name]
            based = self._styles[name].find(f"{W}basedOn")
            name = "" if based is None else value(based, "val")


@dataclass
class _List:
    """A kind of list with its counters: those of all lists that share its definition."""

    levels: dict[int, Any]
    counts: list[int | None] = field(default_factory=lambda: [None] * NUM_LEVELS)


class Numbering:
    """The lists of a document, and how far each has counted.

    Args:
        root: of the part `numbering.xml`; None if the document has none.
    """

    def __init__(self, root: Any, styles: Styles) -> None:
        self._styles = styles
        self._lists: dict[str, _List] = {}
        self._nums: dict[str, Any] = {}
        self._begun: set[tuple[str, int]] = set()
        for found in () if root is None else root.findall(f"{W}abstractNum"):
            levels = {_number_of(level): level for level in found.findall(f"{W}lvl")}
            self._lists[value(found, "abstractNumId")] = _List(levels)
        for found in () if root is None else root.findall(f"{W}num"):
            self._nums[value(found, "numId")] = found

    def label(self, paragraph: Any) -> str:
        """The number or bullet that Word writes before the paragraph; empty if none. Counts the paragraph."""
        num_id, level = self._place(paragraph)
        num = self._nums.get(num_id)
        abstract = None if num is None else num.find(f"{W}abstractNumId")
        found = None if abstract is None else self._lists.get(value(abstract, "val"))
        if num is None or found is None or not 0 <= level < NUM_LEVELS:
            return ""
        override = next((o for o in num.findall(f"{W}lvlOverride") if _number_of(o) == level), None)
        own = None if override is None else override.find(f"{W}lvl")
        definition = own if own is not None else found.levels.get(level)
        if definition is None:
            return ""
        start = None if override is None else override.find(f"{W}startOverride")
        if start is not None and (num_id, level) not in self._begun:
            found.counts[level] = _number(start, 1) - 1
        self._begun.add((num_id, level))
        count = found.counts[level]
        found.counts[level] = _number(definition.find(f"{W}start"), 0) if count is None else count + 1
        found.counts[level + 1 :] = [None] * (NUM_LEVELS - level - 1)
        return _written(definition, found)

    def _place(self, paragraph: Any) -> tuple[str, int]:
        """The paragraph's list and its level there, by itself or by its style."""
        name = self._styles.of_paragraph(paragraph)
        owners = [paragraph, *self._styles.chain(name)]
        found = [p for p in (owner.find(f"{W}pPr/{W}numPr") for owner in owners) if p is not None]
        nums = [value(n, "val") for n in (p.find(f"{W}numId") for p in found) if n is not None]
        levels = [_number(v, 0) for v in (p.find(f"{W}ilvl") for p in found) if v is not None]
        return (nums[0] if nums else ""), (levels[0] if levels else 0)


def _number_of(level: Any) -> int:
    text = value(level, "ilvl")
    return int(text) if re.fullmatch(r"\d", text) else 0


def _written(definition: Any, found: _List) -> str:
    if _format(definition) == "bullet":
        return "-"
    template = definition.find(f"{W}lvlText")
    is_decimal = is_on(definition.find(f"{W}isLgl"))

    def one(match: re.Match[str]) -> str:
        place = int(match[1]) - 1
        level = found.levels.get(place)
        count = found.counts[place]
        if count is None:
            count = 1 if level is None else _number(level.find(f"{W}start"), 1)
        return _counted(count, "decimal" if is_decimal or level is None else _format(level))

    return re.sub(r"%([1-9])", one, "" if template is None else value(template, "val")).strip()


def _format(level: Any) -> str:
    found = level.find(f"{W}numFmt")
    return "decimal" if found is None else value(found, "val")


def _counted(number: int, how: str) -> str:
    """A number as its list writes it; in decimals where the list counts in another script."""
    if how == "none":
        return ""
    if how in ("lowerLetter", "upperLetter") and 0 < number <= 26 * 9:
        letters = chr(ord("a") + (number - 1) % 26) * ((number - 1) // 26 + 1)
        return letters if how == "lowerLetter" else letters.upper()
    if how in ("lowerRoman", "upperRoman") and 0 < number < 4000:
        roman = ""
        for size, sign in _ROMAN:
            roman += sign * (number // size)
            number %= size
        return roman if how == "lowerRoman" else roman.upper()
    return f"{number:02}" if how == "decimalZero" else str(number)
