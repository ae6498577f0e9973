"""Tables of known cells, written here in many ways: each text comes out as it went in, or its row is skipped.

The writer below shares nothing with the reader. Each text has a marker of its own, so a document with two markers has
swallowed a row, and a marker in no document must be in a skipped part.
"""

from __future__ import annotations

import io
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogen.data import Document
from cogen.data.document import Item, Skipped
from tests.accounted import accounted_items
from tests.same_folder import emptied_folder

EXAMPLES = 300
MARKER = re.compile("«\\d+»")
WORDS = [
    "pump",
    "Valve",
    "3/4",
    "12",
    "of the",
    "«»",
    "x",
    "",
    " ",
    "  ",
    "was; and",
    "a, b",
    "C:\\dir",
    "it's",
    "é水",
    "\\n",
]
SPECIAL = ["\n", "\n\n", "\r\n", '"', '""', "'", "\\", ",", ";", "\t", "|", '",', '"\n', "\n1,", "#", "-"]


@dataclass(frozen=True)
class Written:
    """A table as it is written, and the texts of its rows."""

    content: bytes
    texts: list[str]
    num_columns: int


def cell_of(text: str, delimiter: str, style: str) -> str:
    """A cell as a program writes it, with quotes doubled or escaped; as it is, where nothing is quoted."""
    if style == "none":
        return text
    if style == "escaped":
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    needs = style == "all" or any(c in text for c in (delimiter, '"', "\n", "\r")) or text != text.strip()
    return '"' + text.replace('"', '""') + '"' if needs else text


@st.composite
def tables(draw: st.DrawFn) -> Written:
    delimiter = draw(st.sampled_from([",", ",", ";", "\t", "|", "^", "~"]))
    style = draw(st.sampled_from(["minimal", "all", "none", "escaped"]))
    parts = st.lists(st.sampled_from([*WORDS, *WORDS, *SPECIAL]), max_size=6).map("".join)
    texts = []
    for number in range(draw(st.integers(1, 9))):
        before, after = draw(parts), draw(parts)
        text = f"{before}«{number}»{after}"
        if style == "none":
            text = re.sub(r"[\r\n]", " ", text)
            text = text if text.strip()[0] not in "\"'" else "a" + text
        texts.append(text)
    if style == "escaped" and '"' not in "".join(texts):
        texts[0] += '"'  # without one, a backslash is a character as any other
    if all(text.endswith(delimiter) for text in texts):
        texts[0] += "."  # a delimiter at the end of every row is one that a program writes
    columns = draw(st.permutations(["text", *draw(st.sampled_from([[], ["id"], ["id", "source"], ["title", "n"]]))]))
    kind = draw(st.sampled_from(["{}", "T-{}", "word", "2024-05-{:02}", "{}.5"]))
    rows = [
        [text if name == "text" else kind.format(number) + name * (name == "title") for name in columns]
        for number, text in enumerate(texts, 1)
    ]
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    lines = draw(st.sampled_from([[], ["Log of the plant"], ["Log", ""], [""], ["# by a tool"]]))
    lines = [*lines, *(delimiter.join(cell_of(c, delimiter, style) for c in row) for row in [columns, *rows])]
    whole = end.join(lines) + draw(st.sampled_from(["", end]))
    return Written(whole.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))), texts, len(columns))


def require_one_marker(found: list[Item]) -> None:
    for item in found:
        if isinstance(item, Document):
            assert len(set(MARKER.findall(item.text))) <= 1, item.text


@settings(max_examples=EXAMPLES, deadline=None)
@given(written=tables().filter(lambda table: table.num_columns > 1), data=st.data())
def test_a_quote_too_few_or_too_many_swallows_no_row(
    tmp_path_factory: pytest.TempPathFactory, written: Written, data: st.DataObject
) -> None:
    """In one column, two rows in quotes are a text of two lines as well.

    Red: a quoted cell that ends at any quote; no look at the lines inside it.
    """
    code = "utf-16" if written.content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    text = written.content.decode(code)
    quotes = [i for i, c in enumerate(text) if c == '"' and i > text.index("text")]
    at = data.draw(st.sampled_from(quotes or [len(text)]))
    text = text[:at] + data.draw(st.sampled_from(["", '""', '"x'])) + text[at + 1 :]
    require_one_marker(accounted_items(emptied_folder(tmp_path_factory), ".csv", text.encode(code)))


@settings(max_examples=EXAMPLES, deadline=None)
@given(written=tables())
def test_every_text_is_whole_or_its_row_is_skipped(tmp_path_factory: pytest.TempPathFactory, written: Written) -> None:
    """Red: surplus cells cut; a quote that swallows rows; a short row read by its position."""
    found = accounted_items(emptied_folder(tmp_path_factory), ".csv", written.content)
    read = [item.text for item in found if isinstance(item, Document)]
    known = {MARKER.findall(text)[0]: text for text in written.texts}
    for text in read:
        markers = set(MARKER.findall(text))
        assert len(markers) == 1, text
        assert text == known[markers.pop()]
    if len(read) < len(written.texts):
        assert any(isinstance(item, Skipped) and item.reason and item.num_bytes for item in found)


TABLE = "id,text,source\n" + "".join(f'{i},"note «{i}», and\nmore ""words""",log\n' for i in range(6))
LINES = "".join(json.dumps({"id": i, "text": f"note «{i}»", "tags": ["é", None]}) + "\n" for i in range(6))


def parquet() -> bytes:
    import pyarrow
    from pyarrow.parquet import write_table

    out = io.BytesIO()
    texts = [f"note {i} " * 5 for i in range(40)]
    write_table(pyarrow.table({"text": texts, "id": list(range(40))}), out, row_group_size=10)
    return out.getvalue()


def changed(rng: random.Random, content: bytes) -> bytes:
    """`content` with a few bytes changed, removed, repeated or inserted."""
    made = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(made) + 1)
        length = rng.choice([1, 1, 2, 8, 40])
        kind = rng.randrange(5)
        if kind == 0 and at < len(made):
            made[at] = rng.choice([*b'",;\t\n\r\\\0{[]}:', rng.randrange(256)])
        elif kind == 1:
            del made[at : at + length]
        elif kind == 2:
            made[at:at] = made[at : at + length]
        elif kind == 3:
            made[at:at] = bytes(rng.choice(b'",;\t\n\r\\ a1') for _ in range(length))
        else:
            made[at : at + length] = rng.randbytes(min(length, 8))
    return bytes(made)


SEEDS = {
    ".csv": TABLE.encode(),
    ".tsv": TABLE.replace(",", "\t").encode(),
    ".jsonl": LINES.encode(),
    ".parquet": parquet(),
}


def require_items_of_changed(folder: Path, suffix: str, num_inputs: int) -> None:
    rng = random.Random(suffix)
    for number in range(num_inputs):
        content = SEEDS[suffix]
        if suffix in (".csv", ".jsonl") and number % 3 == 0:
            content = content.decode().encode("utf-16")
        assert accounted_items(folder, suffix, changed(rng, content))


@pytest.mark.parametrize("suffix", sorted(SEEDS))
def test_a_changed_file_is_documents_or_reasons(tmp_path: Path, suffix: str) -> None:
    """No traceback, no hang, no byte unaccounted for."""
    require_items_of_changed(tmp_path, suffix, 300)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", sorted(SEEDS))
def test_ten_thousand_changed_files_are_documents_or_reasons(tmp_path: Path, suffix: str) -> None:
    require_items_of_changed(tmp_path, suffix, 10_000)
