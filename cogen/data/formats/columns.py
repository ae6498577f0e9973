"""Which column of a table is the text, and what the cells of a column hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from cogen.data.document import bad_data

ABOUT = ("id", "title", "source")
_NUMBER = re.compile(r"[+-]?[\d.,]*\d[\d.,]*(?:[eE][+-]?\d+)?%?")
_MAX_LISTED = 12


def plain_name(name: str) -> str:
    """A column's name without what hand-made headers add: spaces, quotes, capitals, a byte order mark."""
    return name.strip(" \t\r\n\xa0\ufeff\"'").casefold()


def choose_columns(columns: Sequence[str], candidates: Iterable[int], path: str) -> dict[str, int]:
    """The column of each field of a document: `text` by its name, or the only column that can be the text.

    An exact name goes before one that differs in case or spaces.

    Args:
        candidates: columns that hold text.
    Raises:
        DataError: no column, or several, that could be the text.
    """
    found = {field: _named(columns, field) for field in ("text", *ABOUT)}
    texts = found["text"] or [i for i in candidates if plain_name(columns[i]) not in ABOUT]
    if len(texts) != 1:
        got = "columns " + listed(map(repr, columns)) if columns else "no columns"
        fix = "Name the column of the documents `text`, and no other."
        raise bad_data(path, "a column `text`, or one column of text", got, fix)
    return {"text": texts[0], **{field: found[field][0] for field in ABOUT if found[field]}}


def _named(columns: Sequence[str], field: str) -> list[int]:
    exact = [i for i, name in enumerate(columns) if name == field]
    return exact or [i for i, name in enumerate(columns) if plain_name(name) == field]


def listed(names: Iterable[str]) -> str:
    """Names with commas; of many, the first dozen and how many more."""
    every = list(names)
    more = len(every) - _MAX_LISTED
    return ", ".join(every[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def cropped(text: str, length: int = 60) -> str:
    """The start of `text` in quotes, for a message."""
    text = " ".join(text.split())
    return repr(text if len(text) <= length else text[: length - 3] + "...")


def is_number(cell: str) -> bool:
    """Whether a cell is a number, with a decimal point or comma."""
    return _NUMBER.fullmatch(cell.strip()) is not None


def contents(cells: Iterable[str]) -> str:
    """What a column holds, for a note: `numbers`, `text`, `words` or `nothing`."""
    full = [cell.strip() for cell in cells if cell.strip()]
    if not full:
        return "nothing"
    if all(map(is_number, full)):
        return "numbers"
    return "text" if sum(map(len, full)) >= 20 * len(full) and any(" " in cell for cell in full) else "words"
