"""How much of each part of a web page is links: lists of little but short links are menus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cogen.data.formats.formula import local_name

NO_TEXT = {"script", "style", "template", "title", "datalist", "iframe", "desc", "metadata", "rp"}
MIN_MENU_LINKS = 3
MAX_WORDS_OF_LINK = 4
MIN_SHARE_OF_LINKS = 0.8


@dataclass
class Measure:
    """What a reader could see in an element: words, those of them in links, and links."""

    words: int = 0
    link_words: int = 0
    links: int = 0

    @property
    def is_of_links(self) -> bool:
        """Whether it is little but short links."""
        is_short = self.link_words <= MAX_WORDS_OF_LINK * self.links
        return self.links >= MIN_MENU_LINKS and is_short and self.link_words >= MIN_SHARE_OF_LINKS * self.words


def measured(root: Any) -> dict[Any, Measure]:
    """The measures of all elements, in one pass."""
    from lxml import etree

    found: dict[Any, Measure] = {}
    for _, element in etree.iterwalk(root, events=("end",)):
        name = tag_name(element)
        total = found[element] = Measure(0 if name in NO_TEXT else len((element.text or "").split()))
        for child in element:
            total.words += len((child.tail or "").split())
            if (inner := found.get(child)) is not None and name not in NO_TEXT:
                total.words += inner.words
                total.link_words += inner.link_words
                total.links += inner.links
        if name == "a":
            total.link_words, total.links = total.words, min(1, total.words)
    return found


def tag_name(element: Any) -> str:
    """An element's name without a prefix, in lower case."""
    return local_name(element).lower()
