"""Lines of JSON: the text by its key, and for what is no document a reason that says what there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cogen.data import Document
from tests.unit.test_tables import items, notes, skipped, texts

WANTED = "expected an object with a non-empty string `text`, got "


@pytest.mark.parametrize(
    ("line", "got"),
    [
        (
            json.dumps({"content": "x" * 812, "id": 7}),
            "an object with keys content (string of 812 characters), id (number)",
        ),
        ('{"text": ["a", "b"]}', "an object with keys text (list of 2)"),
        ('{"id": 1, "text": {"a": 1}}', "an object with keys text (object), id (number)"),
        ('{"text": null, "body": true}', "an object with keys text (null), body (true or false)"),
        ('{"text": ""}', "an object with keys text (string of no characters)"),
        ('{"text": NaN}', "an object with keys text (number)"),
        (
            '{"Text": "a", "TEXT": "b"}',
            "an object with keys Text (string of 1 character), TEXT (string of 1 character)",
        ),
        ('{"text": "a", "id": 1, "text": "b"}', "'text' twice"),
        ('{"Text": "a", "Text": "b"}', "'Text' twice"),
        ('{"a key": 1}', "an object with keys 'a key' (number)"),
        ("{}", "an object without keys"),
        ("[]", "list of 0"),
        ('["a", "b"]', "list of 2"),
        ('[{"text": "a"}]', "list of 1"),
        ("null", "null"),
        ("12", "number"),
        (json.dumps({f"k{i}": 1 for i in range(15)}), "k11 (number) and 3 more"),
    ],
)
def test_what_is_no_document_is_described(tmp_path: Path, line: str, got: str) -> None:
    """Red: the reason with the names of keys alone; the last of two texts read."""
    found = items(tmp_path, f'{{"text": "fine"}}\n{line}\n{{"text": "good"}}\n', "a.jsonl")
    assert texts(found) == ["fine", "good"]
    ((where, why),) = skipped(found)
    assert where == "a.jsonl, line 2" and why.startswith(WANTED) and why.endswith(got)


@pytest.mark.parametrize(
    ("line", "got"),
    [
        ('{"text": "a"}{"text": "b"}', "got more after it, from character 14 on"),
        ('{"text": "a"},', "got more after it, from character 14 on"),
        ('{"text": "torn', "got Unterminated string starting at character 10"),
        ("{'text': 'a'}", "got Expecting property name enclosed in double quotes at character 2"),
        ('{"text": ', "got Expecting value at character"),
        ("[" * 100_000, "expected one JSON object a line, got"),
        ('{"a": ' * 100_000, "expected one JSON object a line, got"),
        ('{"text": "a", "n": ' + "1" * 5000 + "}", "expected one JSON object a line, got Exceeds the limit"),
        ("no json", "got Expecting value at character 1"),
    ],
)
def test_a_line_that_is_no_json_costs_itself(tmp_path: Path, line: str, got: str) -> None:
    found = items(tmp_path, f'{{"text": "fine"}}\n\n{line}\n{{"text": "good"}}\n', "a.jsonl")
    assert texts(found) == ["fine", "good"]
    ((where, why),) = skipped(found)
    assert where == "a.jsonl, line 3" and got in why


@pytest.mark.parametrize("indent", [1, 2, 4, "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_json_over_several_lines_is_refused_once(tmp_path: Path, indent: int | str, end: str) -> None:
    """Not once for each of its lines. Red: no look at the next line."""
    objects = [{"text": f"note {i}", "id": i} for i in range(500)]
    whole = json.dumps(objects, indent=indent).replace("\n", end)
    ((where, why),) = skipped(items(tmp_path, whole, "a.jsonl"))
    assert (where, why) == ("a.jsonl", "expected one JSON object a line, got one JSON array over several lines")
    single = "[" + ("," + end).join(map(json.dumps, objects)) + "]"
    assert skipped(items(tmp_path, single, "a.jsonl")) == [(where, why)]
    pretty = end.join(json.dumps(o, indent=indent) for o in objects).replace("\n", end)
    assert skipped(items(tmp_path, pretty, "a.jsonl")) == [
        ("a.jsonl", "expected one JSON object a line, got an object over several lines")
    ]
    found = items(tmp_path, json.dumps(objects[0]) + end + pretty, "a.jsonl")
    assert texts(found) == ["note 0"] and [where for where, _ in skipped(found)] == ["a.jsonl, line 2"]


@pytest.mark.parametrize("torn", ["{", '{"text": ', "[", '[{"text": "a"},'])
def test_a_torn_line_above_good_ones_costs_itself(tmp_path: Path, torn: str) -> None:
    found = items(tmp_path, f'{{"text": "a"}}\n{torn}\n{{"text": "b"}}\n', "a.jsonl")
    assert texts(found) == ["a", "b"] and [where for where, _ in skipped(found)] == ["a.jsonl, line 2"]


def test_keys_in_other_letters_are_taken_and_said(tmp_path: Path) -> None:
    found = items(tmp_path, '{"Text": "a", "ID": 5}\n{" TEXT ": "b", "Title": "T"}\n{"text": "c"}\n', "a.jsonl")
    documents = [i for i in found if isinstance(i, Document)]
    assert [d.text for d in documents] == ["a", "b", "c"]
    assert documents[0].id == "5" and documents[1].title == "T" and "text = 'Text'" in notes(found)


def test_keys_that_are_not_read_are_said_once(tmp_path: Path) -> None:
    """With the share of the characters where they are texts. Red: no note; one for each line."""
    line = {"text": "x" * 30, "Text": "some longer words of prose....", "n": 1, "tags": ["a"], "lang": "en"}
    found = items(tmp_path, (json.dumps(line) + "\n") * 5, "a.jsonl")
    assert texts(found) == ["x" * 30] * 5
    assert notes(found) == "keys not read: Text (text, 48% of the characters), lang (words), n (numbers), tags (lists)"


def test_other_line_ends_and_values_without_a_number(tmp_path: Path) -> None:
    content = '{"text": "a\u2028b"}\r{"text": "c", "id": NaN}\r\n\r{"id": "x", "text": "d", "y": Infinity}'
    found = items(tmp_path, content, "a.jsonl")
    assert texts(found) == ["a\u2028b", "c", "d"] and skipped(found) == []
    assert "nan" not in [i.id for i in found if isinstance(i, Document)]
