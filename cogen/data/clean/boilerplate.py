"""Headers, footers and page numbers: short lines that repeat at the edges of pages and of documents.

A page is what stands between form feeds; text without one is a single page. Its edges are the first and
the last five lines that are not blank. Three kinds of line go, all from the edge inwards only, up to the
first line that stays:

- page numbers, see `page_numbers.py`: in documents of at least 3 pages.
- in one document: a line on the edges of at least 3 pages and of half of them.
- across documents: a line of at least 4 words on the edges of at least 10 documents and of 0.1% of them,
  exact copies of a document counting once.

Lines are equal if their numbers are equal; of a page number with its word ("ACME | Page 3 of 12") only
the label counts. A line whose numbers differ elsewhere is a form's field with a value ("The dose was 5 mg"), and
stays wherever it stands: a line goes only if at least 90% of the lines that differ from it in numbers alone
are equal to it, years apart ("Copyright 2023").

So a heading ("Introduction", "# Patient history"), a table rule or a row of numbers stays wherever many
documents have it: it has fewer words, a heading's mark or no letter, or text comes between it and the edge.
A document of nothing but lines that others share stays whole.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter

from cogen.data.clean.page_numbers import (
    LEAST_PAGES,
    LEAST_PAGES_FRAC,
    MOST_CHARACTERS,
    page_number_lines,
    read_page_numbers,
)

EDGE_LINES = 5
LEAST_WORDS = 4
LEAST_DOCUMENTS = 10
LEAST_DOCUMENTS_FRAC = 0.001
LEAST_SHARE_OF_FORM = 0.9
# Of different lines counted: about 100 bytes each. Above it the rarest go (Misra & Gries 1982); a line of
# 0.1% of the documents stays, since these have at most ten lines each.
MOST_LINES = 200_000
PAGE_BREAK = "\f"

_YEAR_OR_NUMBER = re.compile(r"(?<![\d.,])((?:19|20)\d\d)(?![.,]?\d)|\d+")
_HASH_BITS = 64
_SENTENCE_END = (".", "!", "?", ":", "。", "！", "？", '"', "”", ")")


class BoilerplateCounter:
    """Counts on how many documents' edges each line is. Memory is bounded; counters of parts of a corpus can be merged.

    >>> counter = BoilerplateCounter()
    >>> for word in "abcdefghijkl":
    ...     counter.add(f"Copyright 2024 by the hospital\\n\\nA note on {word}")
    >>> len(counter.repeated())
    1
    """

    def __init__(self) -> None:
        self.num_documents = 0
        self._counts: Counter[int] = Counter()  # of lines, each a hash of its form in front of its own
        self._forms: Counter[int] = Counter()
        self._seen: set[int] = set()

    def add(self, text: str) -> None:
        """Count the edge lines of one more document, each once."""
        document = _hash(text)
        if document in self._seen:
            return
        self._seen.add(document)
        self.num_documents += 1
        lines = {line for page in text.split(PAGE_BREAK) for line in _edge_lines(page)}
        shared = {_shared(line) for line in lines if _may_be_shared(line)}
        forms = {line: _hash(form) for line in shared if (form := _form(line)) != line}
        self._counts.update((forms.get(line, 0) << _HASH_BITS) | _hash(line) for line in shared)
        self._forms.update(forms.values())
        self._shrink()

    def merge(self, other: BoilerplateCounter) -> None:
        """Take in the counts of another part of the corpus."""
        self.num_documents += other.num_documents
        self._counts.update(other._counts)
        self._forms.update(other._forms)
        self._seen |= other._seen
        self._shrink()

    def repeated(self) -> frozenset[int]:
        """Hashes of the lines that repeat across documents, for `strip_boilerplate`."""
        least = max(LEAST_DOCUMENTS, LEAST_DOCUMENTS_FRAC * self.num_documents)
        own = (1 << _HASH_BITS) - 1
        return frozenset(
            key & own
            for key, count in self._counts.items()
            if count >= max(least, LEAST_SHARE_OF_FORM * self._forms[key >> _HASH_BITS])
        )

    def _shrink(self) -> None:
        self._counts, self._forms = _shrunk(self._counts), _shrunk(self._forms)


def strip_boilerplate(text: str, repeated: frozenset[int] = frozenset()) -> tuple[str, int]:
    """The text without headers, footers and page numbers, its pages joined, and how many lines were removed.

    Args:
        repeated: lines that repeat across documents (`BoilerplateCounter.repeated`).
    """
    pages = text.split(PAGE_BREAK)
    running, tops, bottoms = _running_lines(pages)
    stripped = [
        _strip_page(page, Counter(top), Counter(bottom), running, repeated)
        for page, top, bottom in zip(pages, tops, bottoms, strict=True)
    ]
    num_lines = sum(n for _, n in stripped)
    if not num_lines and len(pages) == 1:
        return text, 0
    if repeated and not any(page.strip() for page, _ in stripped):
        return strip_boilerplate(text)
    return join_pages(PAGE_BREAK.join(page for page, _ in stripped)), num_lines


def join_pages(text: str) -> str:
    """Replace form feeds by a blank line, or by a line feed if a sentence continues on the next page."""
    if PAGE_BREAK not in text:
        return text
    joined = ""
    for page in filter(None, (page.strip("\n") for page in text.split(PAGE_BREAK))):
        between = "\n\n" if joined.rstrip().endswith(_SENTENCE_END) or not page[0].islower() else "\n"
        joined += (between if joined else "") + page
    return joined


def _strip_page(
    page: str, top_numbers: Counter[str], bottom_numbers: Counter[str], running: set[str], repeated: frozenset[int]
) -> tuple[str, int]:
    """Remove lines from the top and from the bottom while they are boilerplate; a page number goes once at each edge."""

    def goes(line: str, numbers: Counter[str]) -> bool:
        line = _normalised(line)
        if line in running or (_may_be_shared(line) and _hash(_shared(line)) in repeated):
            return True
        numbers[line] -= 1
        return numbers[line] >= 0

    lines = page.split("\n")
    full = [i for i, line in enumerate(lines) if line.strip()]

    def num_going(indices: list[int], numbers: Counter[str]) -> int:
        edge = indices[:EDGE_LINES]
        return next((n for n, i in enumerate(edge) if not goes(lines[i], numbers)), len(edge))

    top = num_going(full, top_numbers)
    bottom = num_going(full[top:][::-1], bottom_numbers)
    if not top and not bottom:
        return page, 0
    kept = full[top : len(full) - bottom]
    return "\n".join(lines[kept[0] : kept[-1] + 1]) if kept else "", top + bottom


def _running_lines(pages: list[str]) -> tuple[set[str], list[set[str]], list[set[str]]]:
    """Lines on the edges of enough pages of one document; and for each page the page numbers at its top and bottom."""
    if len(pages) < LEAST_PAGES:
        return set(), [set() for _ in pages], [set() for _ in pages]
    lines = [{_normalised(line) for line in _edge_lines(page)} for page in pages]
    counts = Counter(line for page in lines for line in page)
    forms = Counter(form for page in lines for form in {_form(line) for line in page})
    least = max(LEAST_PAGES, LEAST_PAGES_FRAC * len(pages))
    running = {
        line
        for line, count in counts.items()
        if count >= max(least, LEAST_SHARE_OF_FORM * forms[_form(line)]) and any(map(str.isalpha, line))
    }
    halves = [_halves(page, running) for page in pages]
    return running, page_number_lines([top for top, _ in halves]), page_number_lines([bottom for _, bottom in halves])


def _halves(page: str, running: set[str]) -> tuple[list[str], list[str]]:
    """The lines of the top edge and of the bottom edge; of a short page its halves, the line between them in both."""
    full = [line for line in map(_normalised, page.split("\n")) if line and line not in running]
    num = min(EDGE_LINES, (len(full) + 1) // 2)
    return full[:num], full[len(full) - num :]


def _edge_lines(page: str) -> list[str]:
    full = [line for line in page.split("\n") if line.strip()]
    return full if len(full) <= 2 * EDGE_LINES else full[:EDGE_LINES] + full[-EDGE_LINES:]


def _may_be_shared(line: str) -> bool:
    """Whether a line is short, has more words than a heading, and is no Markdown heading or table row."""
    if len(line) > MOST_CHARACTERS or line.lstrip().startswith(("#", "|")):
        return False
    return sum(any(map(str.isalnum, word)) for word in line.split()) >= LEAST_WORDS and any(map(str.isalpha, line))


def _normalised(line: str) -> str:
    """The line without white space around it, and with two spaces for more: they set a page number apart."""
    return re.sub(r"  +", "  ", line.strip())


def _shared(line: str) -> str:
    """What is compared across documents: the line with its numbers; of a clear page number its label."""
    clear = next((one for one in read_page_numbers(line) if one.is_clear), None)
    return f"{clear.label}{PAGE_BREAK}" if clear else " ".join(line.split())


def _form(line: str) -> str:
    """The line with `#` for numbers, except for years."""
    return _YEAR_OR_NUMBER.sub(lambda match: match[1] or "#", line)


def _shrunk(counts: Counter[int]) -> Counter[int]:
    """At most `MOST_LINES` counters, once there are twice as many."""
    if len(counts) <= 2 * MOST_LINES:
        return counts
    least = sorted(counts.values())[-MOST_LINES - 1]
    return Counter({key: n - least for key, n in counts.items() if n > least})


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
