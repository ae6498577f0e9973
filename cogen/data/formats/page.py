"""The text of a parsed web page: what a reader sees, each thing once, in order."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from cogen.data.formats.formula import formula_text
from cogen.data.formats.layout import SUBSCRIPT, SUPERSCRIPT, Layout
from cogen.data.formats.page_links import NO_TEXT, Measure, measured, tag_name

_BLOCKS = {
    *("address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "dialog", "dir"),
    *("div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "frameset", "h1", "h2", "h3", "h4"),
    *("h5", "h6", "header", "hgroup", "hr", "html", "legend", "li", "listing", "main", "menu", "nav", "ol"),
    *("optgroup", "option", "p", "plaintext", "pre", "search", "section", "summary", "table", "tbody", "text"),
    *("textarea", "tfoot", "thead", "tr", "ul", "xmp"),
}
# Shown only where something else is not: seen by almost nobody.
_INSTEAD = {"noscript", "noembed", "video", "audio", "canvas", "object"}
_AS_IT_IS = {"pre", "textarea", "listing", "xmp", "plaintext"}
_MENU_ROLES = {"navigation", "menu", "menubar", "contentinfo", "search", "toolbar"}
# Around a footer or links, these say that they are content.
_CONTENT = {"article", "main", "section", "blockquote", "aside", "figure", "td", "th"}
_LISTS = {"ul", "ol", "dl", "div", "p", "header", "menu", "dir", "center"}
_PHRASES = {"a", "b", "i", "em", "strong", "span", "small", "u", "font", "cite"}
_NO_VALUE = {"hidden", "password", "file", "image", "color", "range", "reset", "submit", "button"}
_TWICE = "formulas that are there twice"
# What KaTeX and MathJax draw, next to the formula itself.
_DRAWN_FORMULAS = {"katex-html", "MathJax", "MathJax_Preview", "MathJax_Display", "MathJax_SVG"}
_FIELDS = {"button", "input", "label", "output", "select"}  # apart from the text around them, if not by a space
_HIDDEN = re.compile(r"(^|;)\s*(display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_SPACE = re.compile(r"[ \t\n\r\f]+")


class Page:
    """Reads one page.

    Args:
        everything: read menus, the foot of the page and hidden parts too.
    """

    def __init__(self, everything: bool) -> None:
        self.layout, self.title = Layout(), ""
        self.unread: Counter[str] = Counter()  # by what was not read, for `unread_names`
        self._everything = everything
        self._measures: dict[Any, Measure] = {}
        self._skipped: set[Any] = set()
        self._kept = 0  # elements that are open and keep their white space
        self._content = 0  # elements that are open and hold the content of the page
        self._numbers: list[int | None] = []  # of the open lists; None for bullets

    def read(self, root: Any) -> None:
        """Add the text of `root`."""
        from lxml import etree

        self.title, self._measures = _title(root), measured(root)
        walk = etree.iterwalk(root, events=("start", "end", "comment", "pi"))
        for event, element in walk:
            if event == "start":
                if self._start(element, tag_name(element)):
                    self._text(element.text)
                else:
                    walk.skip_subtree()
                continue
            if event == "end" and element not in self._skipped:
                self._end(tag_name(element))
            if element is not root:
                self._text(element.tail)

    def _start(self, element: Any, name: str) -> bool:
        """Read what begins here; whether what is inside is to be read too."""
        if why := self._why_unread(element, name):
            self._skipped.add(element)
            if why != _TWICE:
                self.unread[f"word(s) of {why}"] += self._measures[element].words
            return False
        self._content += name in _CONTENT
        if name in _BLOCKS:
            self.layout.end_line()
        if name == "tr":
            self.layout.open_row()
        elif name in ("td", "th"):
            self.layout.open_cell()
        elif name in ("ul", "ol", "menu", "dir"):
            is_counted = name == "ol" and (element.get("type") or "1") == "1"
            self._numbers.append(_whole(element.get("start"), 1) if is_counted else None)
        elif name == "li":
            self.layout.label(self._bullet(element))
        elif name in _AS_IT_IS:
            self._kept += 1
        elif name == "br":
            self.layout.add("\n")
        elif name == "rt":
            self.layout.add("(")
        return self._leaf(element, name)

    def _leaf(self, element: Any, name: str) -> bool:
        """Read an element that is read as a whole; whether it is none."""
        if name in NO_TEXT:
            if name == "script" and "math/tex" in (element.get("type") or ""):
                self.layout.add(" ".join((element.text or "").split()))
            return False
        if name == "math":
            is_block = element.get("display") == "block"
            self._end_line_if(is_block)
            self.layout.add(formula_text(element))
            self._end_line_if(is_block)
            return False
        if name in ("sup", "sub") and all(tag_name(e) in _PHRASES for e in element.iterdescendants()):
            self._script(element, name)
            return False
        if name in _FIELDS:
            self._text(" ")
        if name == "input":
            self._text(_value(element) + " ")
        elif name == "select":
            self._select(element)
            return False
        return True

    def _end(self, name: str) -> None:
        self._content -= name in _CONTENT
        self._end_line_if(name in _BLOCKS)
        if name == "tr":
            self.layout.close_row()
        elif name in ("td", "th"):
            self.layout.close_cell()
        elif name in ("ul", "ol", "menu", "dir"):
            self._numbers.pop()
        elif name == "li":
            self.layout.label("")
        elif name in _AS_IT_IS:
            self._kept -= 1
        elif name in _FIELDS:
            self._text(" ")
        elif name == "rt":
            self.layout.add(")")

    def _text(self, text: str | None) -> None:
        text = (text or "").replace("\xad", "").replace("\r\n", "\n").replace("\r", "\n")
        if not self._kept:
            text = _SPACE.sub(" ", text)
            if self.layout.last in ("", " ", "\n", "\t"):
                text = text.removeprefix(" ")
        self.layout.add(text)

    def _bullet(self, item: Any) -> str:
        if not self._numbers or self._numbers[-1] is None:
            return "-"
        number = _whole(item.get("value"), self._numbers[-1])
        self._numbers[-1] = number + 1
        return f"{number}."

    def _select(self, element: Any) -> None:
        """The options that are chosen; of a list without a choice, all."""
        options = [o for o in element.iter("option") if "".join(o.itertext()).strip()]
        chosen = [o for o in options if o.get("selected") is not None] or options
        self._text(", ".join(_flat(o) for o in chosen) + " ")
        if len(chosen) < len(options):
            self.unread["option(s) not chosen"] += len(options) - len(chosen)

    def _script(self, element: Any, name: str) -> None:
        """A super- or subscript; one that is a link is the mark of a note."""
        text = _SPACE.sub(" ", "".join(element.itertext()).replace("\xad", ""))
        if element.find(".//a") is not None and re.fullmatch(r"\w{1,3}", text.strip()):
            self.layout.add(f"[{text.strip()}]")
        else:
            self.layout.add_script(text, SUPERSCRIPT if name == "sup" else SUBSCRIPT)

    def _end_line_if(self, is_end: bool) -> None:
        if is_end:
            self.layout.end_line()

    def _why_unread(self, element: Any, name: str) -> str:
        """Why the reader of the page does not see this, or why it is no part of its text; empty if it is."""
        classes = (element.get("class") or "").split()
        if name in ("span", "div") and not _DRAWN_FORMULAS.isdisjoint(classes):
            return _TWICE
        if name in _INSTEAD:
            return "text for browsers that lack something"
        if self._everything:
            return ""
        if any("mathml" in c.lower() for c in classes):  # hidden only because a picture of the formula is shown
            return ""
        is_closed = name == "dialog" and element.get("open") is None
        if is_closed or element.get("hidden") is not None or _HIDDEN.search(element.get("style") or ""):
            return "hidden parts"
        return "navigation" if self._is_menu(element, name) else ""

    def _is_menu(self, element: Any, name: str) -> bool:
        if name in ("nav", "search") or (element.get("role") or "").lower() in _MENU_ROLES:
            return True
        if self._content:
            return False
        return name == "footer" or (name in _LISTS and self._measures[element].is_of_links)


def _flat(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


def _title(root: Any) -> str:
    """The page's title, else its first heading."""
    for name in ("title", "h1"):
        for found in root.iter(name):
            if tag_name(found.getparent()) != "svg" and (title := _flat(found)):
                return title
    return ""


def _value(field: Any) -> str:
    kind = (field.get("type") or "text").lower()
    if kind in ("checkbox", "radio"):
        return "\u2612 " if field.get("checked") is not None else "\u2610 "
    return "" if kind in _NO_VALUE else _SPACE.sub(" ", field.get("value") or "")


def _whole(text: str | None, default: int) -> int:
    return int(text) if text and re.fullmatch(r"-?\d{1,9}", text.strip()) else default
