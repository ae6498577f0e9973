"""How a table is written, from its first lines: where its header is, what is between cells, what quotes are.

The header is the first line with a cell `text`; without one, the first with `id`, `title` or `source`; without these,
the first line that has as many cells as those below it. So a title or a comment may stand above it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cogen.data.document import SourceLocation, bad_data
from cogen.data.formats.columns import ABOUT, cropped, is_number, plain_name
from cogen.data.formats.lines import TextLine
from cogen.data.formats.records import SPACES, Dialect, Record, Splitter
from cogen.errors import DataError

# The first of several that fit equally well is taken. A colon and spaces also stand in prose.
DELIMITERS = (",", ";", "\t", "|", "^", "~", "\x1f", "\x01", ":", "  ", " ")
MAX_HEADER_LINE = 30
_SEP = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_MAX_NAME_WORDS, _MAX_NAME_CHARS = 6, 100
_NAMES = {"\t": "tab", " ": "space", "  ": "two or more spaces", "\x1f": "unit separator", "\x01": "control-A"}


def delimiter_name(delimiter: str) -> str:
    """A delimiter for a message."""
    return _NAMES.get(delimiter, repr(delimiter))


@dataclass(frozen=True)
class Layout:
    """What the first lines of a table say.

    Args:
        header: index of the header's line.
        sample: rows below the header that lie in the first lines.
        is_known: the header has a name that a reader knows.
    """

    header: int
    dialect: Dialect
    sample: list[Record]
    is_known: bool


@dataclass(frozen=True)
class _Trial:
    """How well a dialect fits the first lines."""

    records: list[Record]
    num_exact: int
    num_at_least: int
    num_loose: int
    is_broken: bool

    @property
    def score(self) -> tuple[float, float]:
        total = max(1, len(self.records))
        return self.num_exact / total, self.num_at_least / total


class Sniffer:
    """The layout of a table, from its first lines.

    Args:
        is_tsv: between tabs, quotes are plain characters.
        is_all: the file has no more lines.
    """

    def __init__(self, lines: Sequence[TextLine], place: SourceLocation, is_tsv: bool, is_all: bool) -> None:
        self._lines, self._place, self._is_all = lines, place, is_all
        self._texts = [line.text.strip("\r\n\ufeff") for line in lines]
        filled = [i for i, text in enumerate(self._texts) if text.strip()]
        given = _SEP.fullmatch(self._texts[filled[0]].strip(" ")) if filled else None
        self._heads = filled[1 if given else 0 :][:MAX_HEADER_LINE]
        self._delimiters = (given[1],) if given else DELIMITERS
        is_plain = is_tsv and not given and any("\t" in self._texts[i] for i in self._heads)
        if is_plain:
            self._delimiters = ("\t",)
        self._quote = "" if is_plain else '"'

    def layout(self) -> Layout:
        """The header's line and the dialect.

        Raises:
            DataError: there are no names of columns, or the rows are written in another way than the header.
        """
        if not self._heads:
            raise bad_data(self._place.path, "a header that names the columns", "an empty table", "Remove it.")
        header, delimiter, is_known = self._header()
        dialect, sample = self._dialect(header, delimiter)
        self._require_one_delimiter(header, delimiter, sample)
        return Layout(header, dialect, sample, is_known)

    def _names(self, index: int, delimiter: str) -> list[str]:
        cells = Splitter(Dialect(delimiter, self._quote), self._place).cells(self._texts[index])
        return [plain_name(cell) for cell in cells]

    def _is_header(self, index: int, delimiter: str, names: Sequence[str]) -> bool:
        """Whether all cells of a line may be names of columns."""
        if delimiter == ":" and " " in self._texts[index].strip():
            return False
        if delimiter in SPACES and not {"text", *ABOUT} >= set(filter(None, names)):
            return False
        is_first = index == self._heads[0]
        return all(_is_name(name) and (is_first or not is_number(name)) for name in names)

    def _header(self) -> tuple[int, str, bool]:
        named = self._first_with({"text"}, 1)
        about = self._first_with(set(ABOUT), 2)
        if named and about and about[0] < named[0] and about[1] == named[1]:
            is_wider = len(self._names(*about)) != len(self._names(*named))
            return (*(named if is_wider else about), True)
        found = named or about
        return (*found, True) if found else (*self._first_regular(), False)

    def _first_with(self, wanted: set[str], num_cells: int) -> tuple[int, str] | None:
        """The first line with one of the wanted names, and the delimiter that fits best; most rows fit it, if any does."""
        first: tuple[int, str] | None = None
        for index in self._heads:
            found = []
            for delimiter in (*self._delimiters, ""):
                names = self._names(index, delimiter)
                is_single = delimiter and len(names) == 1
                if wanted & set(names) and len(names) >= num_cells and not is_single:
                    found += [delimiter] * self._is_header(index, delimiter, names)
            if found:
                scores = {delimiter: self._dialect_score(index, delimiter) for delimiter in found}
                best = max(found, key=lambda delimiter: scores[delimiter])
                if scores[best][1] >= 0.5:
                    return index, best
                first = first or (index, best)
        return first

    def _dialect_score(self, header: int, delimiter: str) -> tuple[float, float]:
        return self._trial(header, Dialect(delimiter, self._quote), len(self._names(header, delimiter))).score

    def _first_regular(self) -> tuple[int, str]:
        """The first line that has as many cells as most, at least two; or the first of all, with one cell."""
        first = next((i for i in self._heads if not self._texts[i].lstrip().startswith("#")), self._heads[0])
        found = []
        for delimiter in self._delimiters:
            if delimiter in SPACES or (delimiter == ":" and " " in self._texts[first].strip()):
                continue
            counts = [len(self._names(i, delimiter)) for i in self._heads if i >= first]
            width, num = Counter(counts).most_common(1)[0]
            if width > 1 and counts[0] in (1, width) and num >= 0.9 * (len(counts) - 1):
                header = next(i for i in self._heads if i >= first and len(self._names(i, delimiter)) == width)
                found.append((header, delimiter))
            elif counts[0] > 1 and self._dialect_score(first, delimiter)[1] >= 0.8:
                found.append((first, delimiter))
        return max(found, key=lambda f: self._dialect_score(*f)) if found else (first, "")

    def _dialect(self, header: int, delimiter: str) -> tuple[Dialect, list[Record]]:
        """What quotes are, by what makes more rows fit the header and leaves fewer quotes that quote nothing."""
        head = self._texts[header]
        is_padded = bool(delimiter) and delimiter not in SPACES and delimiter + " " in head
        plain = Dialect(delimiter, self._quote, is_padded=is_padded)
        width = len(Splitter(plain, self._place).cells(head))
        best = self._trial(header, plain, width)
        if not self._quote:
            return plain, best.records
        below = self._texts[header + 1 :]
        escaped = self._escaped(header, plain, best, width)
        if escaped is not None:
            return escaped
        single = replace(plain, quote="'")
        if "'" in "".join(below) and not any(record.quoted for record in best.records):
            width = len(Splitter(single, self._place).cells(head))
            trial = self._trial(header, single, width)
            is_quoted = sum(bool(record.quoted) for record in trial.records) == len(trial.records) > 1
            if not trial.is_broken and not trial.num_loose and (is_quoted or trial.score > best.score):
                return single, trial.records
        return plain, best.records

    def _escaped(self, header: int, plain: Dialect, best: _Trial, width: int) -> tuple[Dialect, list[Record]] | None:
        """The dialect with a backslash before quotes, if rows fit better with it.

        A backslash before a quote that ends a cell may be a character, so that alone decides nothing.
        """
        dialect = replace(plain, is_escaped=True)
        trial = self._trial(header, dialect, width)
        cells = [record.source(i, i + 1) for record in trial.records for i in record.quoted]
        is_used = any('\\"' in cell for cell in cells)
        if trial.is_broken or trial.score < best.score or not is_used:
            return None
        if best.is_broken or trial.score > best.score:
            return dialect, trial.records
        if trial.num_loose >= best.num_loose:
            return None
        inside = re.compile(rf'\\"[^\r\n{re.escape(plain.delimiter)}]')
        if not any(map(inside.search, cells)):
            got = "backslashes before quotes that may end a cell or not"
            raise bad_data(self._place.path, "quotes in quoted cells doubled", got, "Double them, or write .jsonl.")
        return dialect, trial.records

    def _trial(self, header: int, dialect: Dialect, width: int) -> _Trial:
        splitter, lines = Splitter(dialect, self._place), self._lines[header + 1 :]
        below = iter(lines)
        records: list[Record] = []
        is_broken = False
        for line in below:
            try:
                if line.text.strip():
                    records.append(splitter.record(line, lambda: next(below, None)))
            except DataError:  # if these are not all lines, a cell may go on below the last of them
                is_inside = next(below, None) is not None or line.number < lines[len(lines) // 2].number
                is_broken = self._is_all or is_inside
                break
        sizes = [len(record.cells) for record in records]
        loose = sum(record.has_loose_quote for record in records)
        return _Trial(records, sizes.count(width), sum(size >= width for size in sizes), loose, is_broken)

    def _require_one_delimiter(self, header: int, delimiter: str, sample: Sequence[Record]) -> None:
        """Refuse rows that have another delimiter than the header: most have too few cells, or it always comes first."""
        names = self._names(header, delimiter)
        rows = [record.text for record in sample if len(record.lines) == 1 and not record.quoted]
        if len(names) < 2 or not rows or delimiter in SPACES:
            return
        enough = 0.9 * len(sample)
        num_short = sum(text.count(delimiter) < len(names) - 1 for text in rows)
        for other in sorted({",", ";", "\t", "|"} - {delimiter, *self._texts[header]}):
            if sum(text.count(other) >= len(names) - 1 for text in rows) < enough:
                continue
            num_first = sum(0 < text.find(other) < text.find(delimiter) for text in rows if delimiter in text)
            is_first = delimiter == "," and num_first > 0 and num_short + num_first >= enough and names[0] != "text"
            if is_first or num_short > 0.5 * len(sample):
                expected = f"{delimiter_name(delimiter)} between cells, as in the header"
                got = f"{delimiter_name(other)}, as in {cropped(rows[0])}"
                raise bad_data(self._place.path, expected, got, "Write the header as the rows are written.")


def _is_name(name: str) -> bool:
    return len(name) <= _MAX_NAME_CHARS and len(name.split()) <= _MAX_NAME_WORDS
