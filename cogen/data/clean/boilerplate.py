"""Headers, footers and page numbers: short lines that repeat at the edges of pages and of documents.

A page is what stands between form feeds; text without one is a single page. Its edges are the first and
the last five lines that are not blank. Two kinds of line go, both from the edge inwards only, up to the
first line that stays:

- in one document: a line on the edges of at least 3 pages and of half of them, digits apart
  ("Page 3 of 12"), or that has no letter but page numbers.
- across documents: a line of at least 4 words on the edges of at least 10 documents and of 0.1% of them,
  exact copies of a document counting once.

So a heading ("Introduction", "# Patient history"), a table rule or a row of numbers stays wherever many
documents have it: it has fewer words, a heading's mark or no letter, or text comes between it and the edge.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter

EDGE_LINES = 5
MOST_CHARACTERS = 200
LEAST_PAGES = 3
LEAST_PAGES_FRAC = 0.5
LEAST_WORDS = 4
LEAST_DOCUMENTS = 10
LEAST_DOCUMENTS_FRAC = 0.001
# Of different lines counted: about 100 bytes each. Above it the rarest go (Misra & Gries 1982); a line of
# 0.1% of the documents stays, since these have at most ten lines each.
MOST_LINES = 200_000
PAGE_BREAK = "\f"

_DIGITS = re.compile(r"\d+")
_ONLY_NUMBERS = re.compile(r"[\s#|/.·–—-]*")
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
        self._counts: Counter[int] = Counter()
        self._seen: set[int] = set()

    def add(self, text: str) -> None:
        """Count the edge lines of one more document, each once."""
        own = _hash(text)
        if own in self._seen:
            return
        self._seen.add(own)
        self.num_documents += 1
        lines = {line for page in text.split(PAGE_BREAK) for line in _edge_lines(page)}
        self._counts.update(_hash(_pattern(line)) for line in lines if _may_be_shared(line))
        self._shrink()

    def merge(self, other: BoilerplateCounter) -> None:
        """Take in the counts of another part of the corpus."""
        self.num_documents += other.num_documents
        self._counts.update(other._counts)
        self._seen |= other._seen
        self._shrink()

    def repeated(self) -> frozenset[int]:
        """Hashes of the lines that repeat across documents, for `strip_boilerplate`."""
        least = max(LEAST_DOCUMENTS, LEAST_DOCUMENTS_FRAC * self.num_documents)
        return frozenset(line for line, count in self._counts.items() if count >= least)

    def _shrink(self) -> None:
        if len(self._counts) > 2 * MOST_LINES:
            least = sorted(self._counts.values())[-MOST_LINES - 1]
            self._counts = Counter({line: n - least for line, n in self._counts.items() if n > least})


def strip_boilerplate(text: str, repeated: frozenset[int] = frozenset()) -> tuple[str, int]:
    """The text without headers, footers and page numbers, its pages joined, and how many lines were removed.

    Args:
        repeated: lines that repeat across documents (`BoilerplateCounter.repeated`).
    """
    pages = text.split(PAGE_BREAK)
    running = _running_lines(pages)
    stripped = [_strip_page(page, running, repeated, is_paged=len(pages) >= LEAST_PAGES) for page in pages]
    num_lines = sum(n for _, n in stripped)
    if not num_lines and len(pages) == 1:
        return text, 0
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


def _strip_page(page: str, running: set[str], repeated: frozenset[int], *, is_paged: bool) -> tuple[str, int]:
    """Remove lines from the top and from the bottom while they are boilerplate."""

    def goes(line: str) -> bool:
        pattern = _pattern(line)
        if pattern in running or (is_paged and _is_page_number(line)):
            return True
        return _may_be_shared(line) and _hash(pattern) in repeated

    lines = page.split("\n")
    full = [i for i, line in enumerate(lines) if line.strip()]
    top = next((n for n, i in enumerate(full[:EDGE_LINES]) if not goes(lines[i])), min(EDGE_LINES, len(full)))
    rest = full[top:][::-1]
    bottom = next((n for n, i in enumerate(rest[:EDGE_LINES]) if not goes(lines[i])), min(EDGE_LINES, len(rest)))
    if not top and not bottom:
        return page, 0
    kept = full[top : len(full) - bottom]
    return "\n".join(lines[kept[0] : kept[-1] + 1]) if kept else "", top + bottom


def _running_lines(pages: list[str]) -> set[str]:
    """Line patterns that are on the edges of enough pages of one document."""
    if len(pages) < LEAST_PAGES:
        return set()
    counts = Counter(p for page in pages for p in {_pattern(line) for line in _edge_lines(page)})
    least = max(LEAST_PAGES, LEAST_PAGES_FRAC * len(pages))
    return {pattern for pattern, count in counts.items() if count >= least and any(map(str.isalpha, pattern))}


def _is_page_number(line: str) -> bool:
    """A number of up to four digits, or two ("3 / 12"), and nothing else."""
    numbers = _DIGITS.findall(line)
    return (
        1 <= len(numbers) <= 2 and all(len(n) <= 4 for n in numbers) and bool(_ONLY_NUMBERS.fullmatch(_pattern(line)))
    )


def _edge_lines(page: str) -> list[str]:
    full = [line for line in page.split("\n") if line.strip()]
    return full if len(full) <= 2 * EDGE_LINES else full[:EDGE_LINES] + full[-EDGE_LINES:]


def _may_be_shared(line: str) -> bool:
    """Whether a line is short, has more words than a heading, and is no Markdown heading or table row."""
    if len(line) > MOST_CHARACTERS or line.lstrip().startswith(("#", "|")):
        return False
    return sum(any(map(str.isalnum, word)) for word in line.split()) >= LEAST_WORDS and any(map(str.isalpha, line))


def _pattern(line: str) -> str:
    """The line in lower case, with numbers as `#` and single spaces."""
    return _DIGITS.sub("#", " ".join(line.split()).casefold()) if len(line) <= MOST_CHARACTERS else line


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
