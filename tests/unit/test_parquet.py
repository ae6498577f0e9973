"""Columns of .parquet files: what holds text is read, and what does not is named with its type."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
from pyarrow.parquet import write_table

from cogen.data import Document
from tests.unit.test_tables import items, notes, skipped, texts

WORDS = ["Größe one", "two", "Größe one"]


def table(columns: dict[str, Any], **options: Any) -> bytes:
    out = io.BytesIO()
    write_table(arrow.table(columns), out, **options)
    return out.getvalue()


def in_bytes(kind: arrow.DataType) -> arrow.Array:
    return arrow.array([word.encode() for word in WORDS]).cast(kind)


@pytest.mark.parametrize(
    "column",
    [
        arrow.array(WORDS),
        arrow.array(WORDS, arrow.large_string()),
        arrow.array(WORDS).cast(arrow.string_view()),
        arrow.array(WORDS).dictionary_encode(),
        arrow.array(WORDS, arrow.large_string()).dictionary_encode(),
        in_bytes(arrow.binary()),
        in_bytes(arrow.large_binary()),
        in_bytes(arrow.binary_view()),
        in_bytes(arrow.binary()).dictionary_encode(),
    ],
)
@pytest.mark.parametrize("name", ["text", "Text", "body"])
def test_text_of_every_type_is_read(tmp_path: Path, column: arrow.Array, name: str) -> None:
    """Red: strings and large strings alone."""
    found = items(tmp_path, table({"n": [1, 2, 3], name: column}), "a.parquet")
    assert texts(found) == WORDS and skipped(found) == []
    assert (f"columns: text = {name!r}" in notes(found)) == (name != "text")


def test_bytes_of_a_fixed_size_are_read(tmp_path: Path) -> None:
    assert texts(items(tmp_path, table({"text": arrow.array([b"ab", b"cd"], arrow.binary(2))}), "a.parquet")) == [
        "ab",
        "cd",
    ]


@pytest.mark.parametrize(
    ("columns", "got"),
    [
        ({"text": [["a", "b"]], "id": [1]}, "`text` of list<string>; columns: 'text' of list<string>, 'id' of int64"),
        ({"text": [{"a": "x"}]}, "`text` of struct<a: string>"),
        (
            {"text": arrow.array([[("k", "v")]], arrow.map_(arrow.string(), arrow.string()))},
            "`text` of map<string, string",
        ),
        ({"text": [1.5]}, "`text` of double"),
        ({"text": [None]}, "`text` of null"),
        ({"text": [True], "body": ["words"]}, "`text` of bool"),
        ({"Text": [[1]]}, "`Text` of list<int64>"),
        ({"n": [1], "meta": [{"text": "a"}]}, "columns 'n' of int64, 'meta' of struct<text: string>"),
        ({}, "no columns"),
    ],
)
def test_what_is_no_text_is_named_with_its_type(tmp_path: Path, columns: dict[str, Any], got: str) -> None:
    """For the file, not for each row. Red: `list` and the keys as the reason of every row."""
    ((where, why),) = skipped(items(tmp_path, table(columns), "a.parquet"))
    assert where == "a.parquet" and why.startswith("expected a column `text` of strings, got ") and got in why


def test_two_columns_that_may_be_the_text_are_named(tmp_path: Path) -> None:
    for columns in ({"body": ["a"], "notes": ["b"]}, {"Text": ["a"], "TEXT": ["b"]}):
        ((_, why),) = skipped(items(tmp_path, table(columns), "a.parquet"))
        assert why == f"expected a column `text`, or one column of text, got columns {str([*columns])[1:-1]}"
    twice = arrow.Table.from_arrays([arrow.array(["a"]), arrow.array(["b"])], names=["text", "text"])
    out = io.BytesIO()
    write_table(twice, out)
    ((_, why),) = skipped(items(tmp_path, out.getvalue(), "a.parquet"))
    assert why.endswith("got columns 'text', 'text'")


def test_an_exact_name_goes_before_another_and_the_rest_is_said(tmp_path: Path) -> None:
    content = table({"Text": ["wrong " * 50], "text": ["right"], "n": [1]}, compression="none", use_dictionary=False)
    found = items(tmp_path, content, "a.parquet")
    assert texts(found) == ["right"]
    assert "columns not read: 'Text' (string, " in notes(found) and "'n' (int64, " in notes(found)


def test_rows_without_a_text_cost_themselves(tmp_path: Path) -> None:
    found = items(tmp_path, table({"text": ["a", None, "", " ", "b"]}), "a.parquet")
    assert texts(found) == ["a", "b"]
    assert [(where, why.split(", got ")[0]) for where, why in skipped(found)] == [
        ("a.parquet, row 2", "expected a text"),
        ("a.parquet, row 3", "expected a text"),
        ("a.parquet, row 4", "expected an object with a non-empty string `text`"),
    ]
    none = items(tmp_path, table({"text": arrow.array([None, None], arrow.string())}), "a.parquet")
    assert len(skipped(none)) == 2
    assert "no rows" in notes(items(tmp_path, table({"text": arrow.array([], arrow.string())}), "a.parquet"))


def test_bytes_that_are_no_utf8_cost_their_row(tmp_path: Path) -> None:
    """In a column of strings too, which Arrow does not check. Red: a traceback."""
    offsets = arrow.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 1, 3)))
    unchecked = arrow.Array.from_buffers(arrow.string(), 2, [None, offsets, arrow.py_buffer(b"\xffok")])
    for column in (unchecked, arrow.array([b"\xff", b"ok"])):
        found = items(tmp_path, table({"text": column, "id": column}), "a.parquet")
        assert texts(found) == ["ok"] and "expected UTF-8" in skipped(found)[0][1]


def test_ids_that_python_has_no_value_for(tmp_path: Path) -> None:
    """Red: a traceback at a time in nanoseconds, or at bytes."""
    ids = [
        arrow.array([1], arrow.timestamp("ns")),
        arrow.array([2**50], arrow.timestamp("s")),
        arrow.array([b"\xff\x01"]),
        arrow.array([{"a": 1}]),
        arrow.array(["x"]).dictionary_encode(),
        arrow.array([1.5]),
    ]
    for column in ids:
        found = items(tmp_path, table({"text": ["a"], "id": column}), "a.parquet")
        assert texts(found) == ["a"] and all(i.id for i in found if isinstance(i, Document))


def test_a_page_that_is_broken_costs_the_rest(tmp_path: Path) -> None:
    rows = [f"row {i} " + "word " * 20 for i in range(2000)]
    content = bytearray(table({"text": rows}, row_group_size=500, compression="gzip", use_dictionary=False))
    content[len(content) // 2 : len(content) // 2 + 40] = b"\0" * 40
    found = items(tmp_path, bytes(content), "a.parquet")
    assert 500 <= len(texts(found)) < 2000 and texts(found) == rows[: len(texts(found))]
    ((_, why),) = skipped(found)
    assert why.startswith("expected a whole parquet file, got ") and "\n" not in why


def test_an_encrypted_file_is_refused(tmp_path: Path) -> None:
    plain = table({"text": ["a"]})
    assert "encrypt" in skipped(items(tmp_path, b"PARE" + plain[4:-4] + b"PARE", "a.parquet"))[0][1].lower()
