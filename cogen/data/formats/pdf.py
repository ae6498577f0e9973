"""PDF: the text layer, page by page."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import BinaryIO

from cogen.data.document import Item, SourceLocation, bad_data
from cogen.data.formats.compressed import seekable
from cogen.data.formats.extra import needs

PAGE_BREAK = "\f"


def read_pdf(file: BinaryIO, place: SourceLocation) -> Iterator[Item]:
    """All pages as one document, with form feeds between pages and the lines of each page.

    Headers and page numbers are kept here; `strip_boilerplate` finds them by their repetition on many pages.
    """
    with needs("pypdf", ".pdf"):
        import pypdf
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of each oddity that it repairs
    with seekable(file) as whole:
        try:
            reader = pypdf.PdfReader(whole)
            locked = reader.is_encrypted and not reader.decrypt("")
            pages = [] if locked else [page.extract_text() for page in reader.pages]
            title = "" if locked or reader.metadata is None else str(reader.metadata.title or "")
        except Exception as error:  # the library raises any error for a broken file
            got = f"{type(error).__name__}: {error}"
            raise bad_data(place.path, "a whole PDF", got, "Open and save it again, or remove it.") from error
    if locked:
        raise bad_data(place.path, "a PDF that opens", "one with a password", "Save it without the password.")
    found = place.whole(PAGE_BREAK.join(map(_whole_characters, pages)), title)
    if found is None:
        got = f"{len(pages)} pages without a text layer"
        raise bad_data(place.path, "text", got, "It looks scanned: run text recognition over it first.")
    yield found


def _whole_characters(text: str) -> str:
    """Replace half surrogate pairs, which fonts without a proper table give and no encoding can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
