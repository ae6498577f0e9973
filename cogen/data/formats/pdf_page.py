"""One page of a PDF: its text, and whether there is text on it that cannot be read."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cogen.data.formats.pdf_font import has_character_map, may_be_numbered
from cogen.data.formats.pdf_form import Typed

# A page with fewer characters than this, under a picture that covers it, is a scanned one with a stamp.
MIN_CHARACTERS = 20
MIN_COVERED = 0.5  # of the page, by pictures
# A page without text and with more lines and curves than a frame or a form has is a drawing, or text as shapes.
MIN_SEGMENTS = 100
MAX_UNMAPPED = 0.2  # of a page's characters
MIN_LOWER = 0.5  # small letters in text whose codes are those of letters, and no numbers of glyphs
MAX_DEPTH = 8  # of forms in forms, and of a field's parents
SCANNED = "without text: they look scanned"
DRAWN = "without text: if they hold any, it is drawn as shapes"
UNMAPPED = "with text without a character map"
SEGMENTS = frozenset((b"l", b"c", b"v", b"y", b"re"))
# Letters that were joined, or given the shape of their place in a word, for print.
_SHAPES = re.compile("[\ufb00-\ufb06\ufb50-\ufdfb\ufe70-\ufefc]")
IDENTITY = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)

Matrix = Sequence[float]


@dataclass(frozen=True)
class Page:
    """What was found on one page.

    Args:
        fault: why what is on it cannot be read, in a few words; empty if it can, or there is nothing.
        fonts: those without a character map.
        num_unmapped: characters of such fonts.
    """

    text: str = ""
    fault: str = ""
    fonts: tuple[str, ...] = ()
    num_unmapped: int = 0

    @property
    def keeps_text(self) -> bool:
        """Whether its text is one to read; a stamp on a scanned page is."""
        return not self.fault or (self.fault == SCANNED and bool(self.text.strip()))


def read_page(page: Any, typed: Typed) -> Page:
    """The text of a page, what was typed into its form, and what of it cannot be read."""
    looked = _Looked(page)
    text = page.extract_text(
        visitor_operand_before=looked.before, visitor_operand_after=looked.after, visitor_text=looked.text
    )
    if not page.get("/Resources"):
        looked.plain(page)
    more = typed.on(page)
    text = plain_letters("\n".join(part for part in (text.rstrip("\n"), *more) if part) if more else text)
    fonts = looked.unread()
    unmapped = sum(fonts.values())
    num = looked.num_characters
    found = Page(text, fonts=tuple(fonts), num_unmapped=unmapped)
    if unmapped + looked.num_odd > MAX_UNMAPPED * num:
        return Page("", UNMAPPED, tuple(fonts), unmapped)
    if more or num >= MIN_CHARACTERS:
        return found
    covered = looked.pictured / looked.area
    if covered >= MIN_COVERED or (covered and not num):
        return Page(text, SCANNED)
    return Page(text, DRAWN) if not num and looked.num_segments >= MIN_SEGMENTS else found


def plain_letters(text: str) -> str:
    """Letters in place of their printed shapes, and no half surrogate pairs, which bad fonts give."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _SHAPES.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)


class _Looked:
    """Follows the drawing of a page, as the library calls it, and counts what is drawn."""

    def __init__(self, page: Any) -> None:
        self._box = _box(page)
        self.area = max(1.0, (self._box[2] - self._box[0]) * (self._box[3] - self._box[1]))
        self.pictured, self.num_segments = 0.0, 0
        self.num_characters = self.num_odd = 0
        self.unmapped: Counter[str] = Counter()
        self._guessed: dict[str, str] = {}
        self._has_map: dict[int, bool] = {}
        self._pictures = set(_pictures(page.get("/Resources"), MAX_DEPTH))
        self._bases: list[Matrix] = [IDENTITY]

    def before(self, operator: bytes, operands: Any, matrix: Matrix, _: Any) -> None:
        """Before an operator is carried out."""
        if operator in SEGMENTS:
            self.num_segments += 1
        elif operator == b"INLINE IMAGE":
            self._add_picture(_times(matrix, self._bases[-1]))
        elif operator == b"Do":
            here = _times(matrix, self._bases[-1])
            self._bases.append(here)
            if operands and operands[0] in self._pictures:
                self._add_picture(here)

    def after(self, operator: bytes, operands: Any, matrix: Matrix, _: Any) -> None:
        """After it, and all that a form draws."""
        if operator == b"Do":
            self._bases.pop()

    def text(self, text: str, _: Any, __: Any, font: Any, ___: Any) -> None:
        """Count a piece of text in one font."""
        visible = "".join(text.split())
        if not visible:
            return
        self.num_characters += len(visible)
        if font is not None and id(font) not in self._has_map:
            self._has_map[id(font)] = has_character_map(font)
        name = "" if font is None else str(font.get("/BaseFont") or font.get("/Name") or "/unnamed").lstrip("/")
        if name and not self._has_map[id(font)]:
            self.unmapped[name] += len(visible)
        elif name and may_be_numbered(font):
            self._guessed[name] = self._guessed.get(name, "") + visible
        else:
            self.num_odd += sum(map(_is_odd, visible))

    def unread(self) -> dict[str, int]:
        """Characters in fonts without a character map, by font; a font's codes may happen to be those of letters."""
        for name, text in self._guessed.items():
            if sum(map(str.islower, text)) < MIN_LOWER * len(text):
                self.unmapped[name] += len(text)
        return self.unmapped

    def plain(self, page: Any) -> None:
        """A page that names no fonts, which the library does not go through."""
        contents = page.get_contents()
        for operands, operator in () if contents is None else contents.operations:
            self.before(operator, operands, (self._box[2], 0.0, 0.0, self._box[3], 0.0, 0.0), None)

    def _add_picture(self, matrix: Matrix) -> None:
        """Add the part of the page that the unit square covers."""
        a, b, c, d, e, f = matrix
        xs, ys = (e, e + a, e + c, e + a + c), (f, f + b, f + d, f + b + d)
        left, low, right, high = self._box
        width = min(max(xs), right) - max(min(xs), left)
        height = min(max(ys), high) - max(min(ys), low)
        self.pictured += max(0.0, width) * max(0.0, height)


def _box(page: Any) -> tuple[float, float, float, float]:
    """Left, low, right and high edge of a page; those of A4 where it does not say."""
    with suppress(AttributeError, TypeError, KeyError, ValueError, IndexError):
        a, b, c, d = map(float, page.mediabox)
        if a != c and b != d:
            return min(a, c), min(b, d), max(a, c), max(b, d)
    return 0.0, 0.0, 595.0, 842.0


def _times(first: Matrix, then: Matrix) -> Matrix:
    a, b, c, d, e, f = first
    m, n, o, p, q, r = then
    return (a * m + b * o, a * n + b * p, c * m + d * o, c * n + d * p, e * m + f * o + q, e * n + f * p + r)


def _pictures(resources: Any, depth: int) -> Iterator[str]:
    """Names of all pictures that a page or the forms on it draw."""
    with suppress(AttributeError, TypeError, KeyError):
        for name, reference in resources.get_object().get("/XObject", {}).get_object().items():
            drawn = reference.get_object()
            if drawn.get("/Subtype") == "/Image":
                yield name
            elif depth:
                yield from _pictures(drawn.get("/Resources"), depth - 1)


@lru_cache(maxsize=1 << 16)
def _is_odd(character: str) -> bool:
    """Whether no font means it: a control, unassigned or private character, or the mark of one that is lost."""
    return character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cn", "Co", "Cs")
