"""Page numbers at the edges of pages: how a line with one looks, and which lines of a document are such.

A number alone says little: "12" may be a result. So a line is a page number by one of two kinds of evidence:

- It holds a word for page with its number and nothing else ("Page 3 of 12", "Seite 3/12", "第3页"), and so do
  others on at least 3 pages and half of them.
- Its number grows by one a page over 3 pages in a row or more, and such pages make up half of all. The line
  holds nothing else ("- 3 -", "iii", "3 / 12"), or a word for page ("ACME Manual Page 3"), or a text of two
  words or more that is equal on those pages, apart from the number by a bar, a dash, a tab or two spaces.

"Patient 3" and "Potassium 4.1 mmol/l" are neither, whatever stands on the other pages.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LEAST_PAGES = 3
LEAST_PAGES_FRAC = 0.5
LEAST_LABEL_WORDS = 2
MOST_CHARACTERS = 200
MOST_NUMBER_CHARACTERS = 60

_BEFORE = (
    r"pages?|pg\.?|pp?\.|seite|s\.|blatt|página|pagina|pàgina|pág\.?|pag\.?|blz\.?|bladzijde|folha|strona|str\.|strana|"
    r"stránka|stranica|sivu|sida|sid\.|side|leht|lk\.?|trang|halaman|hal\.|sayfa|ukurasa|страница|стр\.?|с\.|сторінка|"
    r"стор\.?|σελίδα|σελ\.|էջ|გვერდი|עמוד|עמ['׳]|صفحة|صفحه|صفحہ|ص\.?|पृष्ठ|पेज|পৃষ্ঠা|பக்கம்|പേജ്|പുറം|పేజీ|ಪುಟ|ਪੰਨਾ|"
    r"પૃષ્ઠ|පිටුව|หน้า|ໜ້າ|ទំព័រ|စာမျက်နှာ|ገጽ|ཤོག་ངོས།?|ページ|頁|页|쪽|페이지"
)
_AFTER = r"ページ|頁|页|쪽|페이지|oldal|sayfa|lehekülg|puslapis|lappuse|бет"
_OF = r"\s+(?:of|von|de|di|do|su|sur|van|av|af|ud|z|ze|iz|od|din|sa|из|з|із|από|από|מתוך|من|از|का|จาก|trên|dari)\s+|\s*[/|共]\s*|\s+[–—-]\s+"
_NUMBER = r"\d{1,4}"
_ROMAN = r"(?=[ivxlc])c{0,3}(?:xc|xl|l?x{0,3})(?:ix|iv|v?i{0,3})"
_PAGE = re.compile(
    rf"(?P<before>(?:{_BEFORE})\s*[:#]?\s*|第\s*)?(?P<number>{_NUMBER}|{_ROMAN})(?P<after>\.?\s*(?:{_AFTER}))?"
    rf"(?:(?:{_OF})(?P<total>{_NUMBER})\s*(?:{_AFTER})?)?",
    re.IGNORECASE,
)
# What may stand around a page number: dashes, brackets, dots.
_AROUND = " \t[](){}<>·•*~_=–—-"
_APART = re.compile(r"\s*[|·•]\s*|\s+/\s+|\s+[–—-]\s+|\t\s*|\s{2,}")
_WITH_WORD = re.compile(rf"(?P<label>.*\S)\s+(?P<page>(?:{_BEFORE})\s*[:#]?\s*{_NUMBER}.*)", re.IGNORECASE)
_ROMAN_VALUES = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}


@dataclass(frozen=True)
class PageNumber:
    """A line read as a page number.

    Args:
        label: the text of the line without the page number and the number of all pages.
        number: of the page.
        total: of all pages, if it is given.
        has_word: whether a word for page stands with the number.
        is_apart: whether the number is all there is, or is set apart from the rest.
    """

    label: str
    number: int
    total: str
    has_word: bool
    is_apart: bool = True

    @property
    def is_clear(self) -> bool:
        """Whether it is one wherever it stands: a word for page, and nothing else or apart from it."""
        return self.has_word and self.is_apart


def read_page_numbers(line: str) -> Iterator[PageNumber]:
    """The ways to read the line as a page number: all of it, or its end or its start.

    >>> [(one.label, one.number, one.total) for one in read_page_numbers("ACME Manual | Page 3 of 12")]
    [('ACME Manual', 3, '12')]
    """
    line = line.strip()
    if len(line) > MOST_CHARACTERS or line.startswith("|"):
        return  # a paragraph or a table's row
    if whole := _whole(line):
        yield whole
        return
    gaps = list(_APART.finditer(line))
    sides = {(line[: gap.start()], line[gap.end() :]) for gap in (*gaps[:1], *gaps[-2:])}
    apart = [
        PageNumber(" ".join(label.split()), found.number, found.total, found.has_word)
        for left, right in sorted(sides)
        for label, number in ((left, right), (right, left))
        if (found := _whole(number))
    ]
    yield from apart
    if not apart and (match := _WITH_WORD.fullmatch(line)) and (found := _whole(match["page"])):
        yield PageNumber(" ".join(match["label"].split()), found.number, found.total, has_word=True, is_apart=False)


def page_number_lines(edges: Sequence[Sequence[str]]) -> list[set[str]]:
    """For each page of a document, the lines that are page numbers.

    Args:
        edges: for each page, its lines at one edge.
    """
    least = max(LEAST_PAGES, LEAST_PAGES_FRAC * len(edges))
    readings = [[(line, one) for line in lines for one in read_page_numbers(line)] for lines in edges]
    alone = [{line for line, one in page if one.is_clear and not one.label} for page in readings]
    if sum(map(bool, alone)) < least:
        alone = [set() for _ in edges]
    counted = _counted(readings)
    if sum(map(bool, counted)) < least:
        counted = [set() for _ in edges]
    return [first | second for first, second in zip(alone, counted, strict=True)]


def _counted(readings: Sequence[Sequence[tuple[str, PageNumber]]]) -> list[set[str]]:
    """For each page, the lines whose number grows by one a page over enough pages in a row."""
    seen: dict[tuple[str, str, bool], dict[int, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for page, found in enumerate(readings):
        for line, one in found:
            if one.has_word or not one.label or len(one.label.split()) >= LEAST_LABEL_WORDS:
                seen[one.label, one.total, one.has_word][page][one.number - page] = line
    lines: list[set[str]] = [set() for _ in readings]
    for by_page in seen.values():
        pages = list(by_page)
        for offset in {offset for offsets in by_page.values() for offset in offsets}:
            for run in _runs([page if offset in by_page[page] else None for page in pages]):
                for page in run:
                    lines[page].add(by_page[page][offset])
    return lines


def _runs(pages: Sequence[int | None]) -> Iterator[list[int]]:
    """Stretches of enough pages without None between them."""
    run: list[int] = []
    for page in (*pages, None):
        if page is not None:
            run.append(page)
            continue
        if len(run) >= LEAST_PAGES:
            yield run
        run = []


def _whole(text: str) -> PageNumber | None:
    """The text as a page number with nothing else."""
    match = _PAGE.fullmatch(text.strip(_AROUND)) if len(text) <= MOST_NUMBER_CHARACTERS else None
    if match is None:
        return None
    has_word = bool(match["before"] or match["after"])
    return PageNumber("", _value(match["number"]), match["total"] or "", has_word)


def _value(number: str) -> int:
    """The value of digits of any script or of a Roman number."""
    if number[0].isdecimal():
        return int(number)
    values = [_ROMAN_VALUES[c] for c in number.lower()]
    return sum(-a if a < b else a for a, b in zip(values, [*values[1:], 0], strict=True))
