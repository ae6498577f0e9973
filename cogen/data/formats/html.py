"""Web pages: the article without the menus around it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import BinaryIO

from cogen.data import document
from cogen.data.document import Item, SourceLocation, too_long
from cogen.data.formats.extra import needs


def read_html(file: BinaryIO, place: SourceLocation) -> Iterator[Item]:
    """The main text of the page by trafilatura, or all of its text if there is none; in the encoding of the page."""
    with needs("trafilatura", ".html"):
        from trafilatura import bare_extraction, html2txt
        from trafilatura.settings import Document as Page
        from trafilatura.utils import decode_file
    content = file.read(document.MAX_DOCUMENT_BYTES + 1)
    if len(content) > document.MAX_DOCUMENT_BYTES:
        raise too_long(place.path)
    if not content.strip():
        return
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it logs pages without an article, which we report
    page = decode_file(content)
    if "<html" not in page.lower():  # a fragment, which the library does not accept as a page
        page = f"<html><body>{page}</body></html>"
    found = bare_extraction(page, include_comments=False, include_tables=True, with_metadata=True)
    text, title = (found.text, found.title) if isinstance(found, Page) else (None, None)
    if made := place.whole(text or html2txt(page), title or ""):
        yield made
