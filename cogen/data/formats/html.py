"""Web pages: all that a reader sees, in order, without the menus around it; what is not read is named."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from html import escape
from typing import Any, BinaryIO

from cogen.data import document
from cogen.data.document import Item, Note, SourceLocation, bad_data, too_long
from cogen.data.formats.encodings import decode_page
from cogen.data.formats.extra import needs
from cogen.data.formats.layout import unread_names
from cogen.data.formats.page import Page

# What ends a page for the parser, which browsers read on after; and characters that it cannot hold.
_ENDS = re.compile(r"</(?:html|body)\s*>", re.IGNORECASE)
_NO_CHARACTERS = re.compile("[\0\x01-\x08\x0b\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_FRAMES = re.compile(r"<(/?)(?:frameset|noframes)\b", re.IGNORECASE)
_NEVER_SHOWN = (("<!--", "-->"), ("<script", "</script"), ("<style", "</style"), ("<title", "</title"))
_XHTML = re.compile(r"\s*<\?xml\b")


def read_html(file: BinaryIO, place: SourceLocation) -> Iterator[Item]:
    """The text of the page in the encoding that it declares; menus, hidden parts and scripts are not read."""
    content = file.read(document.MAX_DOCUMENT_BYTES + 1)
    if len(content) > document.MAX_DOCUMENT_BYTES:
        raise too_long(place.path)
    if not content.strip():
        return
    page = decode_page(content, place.path)
    try:
        text, title, unread = _read(page.text)
    except ValueError as error:
        raise bad_data(place.path, "a web page", str(error), "Save it again, or as .txt.") from None
    found = place.whole(text, title)
    names = unread_names(unread)
    if found is None and names:
        raise bad_data(place.path, "text", names, "Save the page's text, or remove it.")
    if found is not None:
        if page.note:
            yield Note(place.path, page.note)
        if names:
            yield Note(place.path, f"not read: {names}")
        yield found


def page_text(content: bytes) -> str:
    """The text of a page."""
    return _read(decode_page(content).text)[0]


def _read(page: str) -> tuple[str, str, Counter[str]]:
    """Text, title, and what was not read.

    Raises:
        ValueError: the page's elements are nested too deep for the parser.
    """
    root = _parsed(page)
    if root is None:
        return "", "", Counter()
    read = Page(everything=False)
    read.read(root)
    text = read.layout.text()
    if not text.strip():  # a page of links alone, or one that a script makes visible
        read = Page(everything=True)
        read.read(root)
        text = read.layout.text()
    read.unread["frame(s) with other pages"] += sum(1 for _ in root.iter("frame", "iframe"))
    read.unread.update(_swallowed(page))
    return text, read.title, read.unread


def _swallowed(page: str) -> Counter[str]:
    """What an element or comment that never ends hides from every reader."""
    found: Counter[str] = Counter()
    lower = page.lower()
    for begin, end in _NEVER_SHOWN:
        start = lower.rfind(begin)
        if start >= 0 and end not in lower[start:]:
            found[f"word(s) after a {begin} that never ends"] += len(page[start + len(begin) :].split())
    return found


def _parsed(page: str) -> Any:
    with needs("lxml", ".html"):
        from lxml import etree
    page = _ENDS.sub("", _NO_CHARACTERS.sub("", page))
    page = _FRAMES.sub(lambda m: f"<{m[1]}div", page)  # the parser keeps no text of them
    if _XHTML.match(page):
        page = _without_sections(page)
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, no_network=True)
    root = etree.fromstring(page.encode(), parser) if page.strip() else None
    if any(fault.type_name == "ERR_RESOURCE_LIMIT" for fault in parser.error_log):
        raise ValueError("one with too many elements inside each other")
    return root


def _without_sections(page: str) -> str:
    """XHTML with the text of its CDATA sections, which are comments in HTML."""
    first, *sections = page.split("<![CDATA[")
    parts = [section.partition("]]>") for section in sections]
    return first + "".join(escape(text, quote=False) + rest for text, _, rest in parts)
