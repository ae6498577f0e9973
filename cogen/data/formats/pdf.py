"""PDF: the text layer, page by page, with what was typed into forms; and pages whose text cannot be read, by name."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from cogen.data import document
from cogen.data.document import REST, Item, Note, Skipped, SourceLocation, bad_data, too_long
from cogen.data.formats.compressed import num_bytes, seekable
from cogen.data.formats.extra import needs
from cogen.data.formats.pdf_form import Typed
from cogen.data.formats.pdf_page import MAX_DEPTH, UNMAPPED, Page, read_page

PAGE_BREAK = "\f"
MAX_RANGES = 20  # of pages in a message
MAX_WARNINGS, MAX_WARNING_CHARACTERS = 2, 120  # of the library, in a note
RECOGNISE = "Run text recognition over it, or remove it."
FIXES = {UNMAPPED: "Export it again with character maps of its fonts, or run text recognition over it."}


def read_pdf(file: BinaryIO, place: SourceLocation) -> Iterator[Item]:
    """All pages as one document, with form feeds between pages and the lines of each page.

    Pages without text that can be read are skipped, each with its share of the file's bytes. Headers and page numbers
    are kept here; `strip_boilerplate` finds them by their repetition on many pages.
    """
    with needs("pypdf", ".pdf"):
        import pypdf
    with seekable(file) as whole, _repairs() as repairs:
        reader, num_pages = _opened(pypdf, whole, place)
        typed, pages, size = Typed(), [], 0
        for number in range(num_pages):
            pages.append(_page(reader, number, typed))
            size += len(pages[-1].text)
            if size > document.MAX_DOCUMENT_BYTES:
                raise too_long(place.path, "characters of text")
            yield Note(place.path, "")  # a sign that it gets on
        yield from _skipped(pages, place, num_bytes(whole))
        if repairs:
            yield Note(place.path, f"repaired, and read as far as it goes: {'; '.join(repairs)}")
        for note in _notes(reader, pages, typed):
            yield Note(place.path, note)
        text = PAGE_BREAK.join(page.text for page in pages if page.keeps_text)
        found = place.whole(text, _title(reader))
        if found is None and not any(page.fault for page in pages):
            raise bad_data(place.path, "text", f"{num_pages} pages without a text layer", RECOGNISE)
        yield found or Note(place.path, "", REST)  # blank pages


@contextmanager
def _repairs() -> Iterator[list[str]]:
    """The first of the library's warnings, each of an oddity of the file that it passed over or repaired."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = " ".join(record.getMessage().split())[:MAX_WARNING_CHARACTERS]
            if len(found) < MAX_WARNINGS and message not in found:
                found.append(message)

    logger, handler = logging.getLogger("pypdf"), Collector(logging.WARNING)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def _opened(library: Any, file: BinaryIO, place: SourceLocation) -> tuple[Any, int]:
    """The file's reader and its number of pages."""
    try:
        reader = library.PdfReader(file)
        is_locked = reader.is_encrypted and not reader.decrypt("")
        # the number of an encrypted file is what it says of itself
        num_pages = 0 if is_locked else min(len(reader.pages), int(reader.trailer.get("/Size", 0)) or 2**20)
    except MemoryError:
        raise
    except Exception as error:  # the library raises any error for a broken file
        got = f"{type(error).__name__}: {error}"
        raise bad_data(place.path, "a whole PDF", got, "Open and save it again, or remove it.") from error
    if is_locked:
        raise bad_data(place.path, "a PDF that opens", "one with a password", "Save it without the password.")
    if not num_pages:
        raise bad_data(place.path, "a whole PDF", "no pages", "Open and save it again, or remove it.")
    return reader, num_pages


def _page(reader: Any, number: int, typed: Typed) -> Page:
    try:
        return read_page(reader.pages[number], typed)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  the library raises any error for a broken page
        return Page(fault=f"that cannot be read: {type(error).__name__}: {error}")


def _skipped(pages: Sequence[Page], place: SourceLocation, size: int) -> Iterator[Item]:
    """The pages that are not read, by what is wrong with them.

    Args:
        size: bytes of the file; each page has an equal share.
    """
    faults: dict[str, list[int]] = {}
    for number, page in enumerate(pages):
        if page.fault:
            faults.setdefault(page.fault, []).append(number)
    for fault, numbers in faults.items():
        fonts = sorted({font for number in numbers for font in pages[number].fonts})
        named = f" (font{'s' * (len(fonts) > 1)} {', '.join(fonts)})" if fonts else ""
        got = f"{len(numbers)} of {len(pages)} pages {fault}{named}"
        share = sum(size * (n + 1) // len(pages) - size * n // len(pages) for n in numbers)
        error = bad_data(f"{place.path}, {_ranges(numbers)}", "text", got, FIXES.get(fault, RECOGNISE))
        yield Skipped.of(error, share)


def _ranges(numbers: Sequence[int]) -> str:
    """Page numbers from 0 as `page 1` or `pages 2-10, 14`."""
    ends: list[list[int]] = []
    for number in numbers:
        if ends and ends[-1][1] == number:
            ends[-1][1] += 1
        else:
            ends.append([number + 1, number + 1])
    named = [str(a) if a == b else f"{a}-{b}" for a, b in ends[:MAX_RANGES]]
    return f"page{'s' * (len(numbers) > 1)} {', '.join(named)}{', ...' * (len(ends) > MAX_RANGES)}"


def _notes(reader: Any, pages: Sequence[Page], typed: Typed) -> Iterator[str]:
    """What else a user should know."""
    unmapped = sum(page.num_unmapped for page in pages if not page.fault)
    if unmapped:
        fonts = sorted({font for page in pages if not page.fault for font in page.fonts})
        yield f"{unmapped} characters in fonts without a character map ({', '.join(fonts)}) may be wrong"
    if typed.num_comments:
        yield f"{typed.num_comments} comments: not read"
    with suppress(Exception):  # a part that a broken file does not have
        root = reader.root_object
        if files := _count(root.get("/Names", {}).get_object().get("/EmbeddedFiles"), MAX_DEPTH):
            yield f"{files} attached files: not read"
        if "/XFA" in root.get("/AcroForm", {}).get_object():
            yield "a form in XFA: what only it holds is not read"
        if hidden := root.get("/OCProperties", {}).get_object().get("/D", {}).get_object().get("/OFF"):
            yield f"{len(hidden.get_object())} hidden layers: their text is read too"


def _count(tree: Any, depth: int) -> int:
    """Entries of a name tree."""
    node = tree.get_object() if tree is not None else {}
    kids = node.get("/Kids", ()) if depth else ()
    return len(node.get("/Names", ())) // 2 + sum(_count(kid, depth - 1) for kid in kids)


def _title(reader: Any) -> str:
    with suppress(Exception):  # any error, for a broken part
        return str(reader.metadata.title or "") if reader.metadata else ""
    return ""
