"""Files become documents: which are read, their ids, and the errors for the others."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from cogen.data import Corpus, read_corpus, split_documents
from cogen.data.formats import SUFFIXES
from cogen.errors import DataError


def put(folder: Path, **files: str | bytes) -> Path:
    """Files by name, `__` for a folder's slash and `_` for the suffix's dot."""
    for name, content in files.items():
        path = folder / ".".join(name.replace("__", "/").rsplit("_", 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def refusal(path: Path, strict: bool = True) -> str:
    with pytest.raises(DataError) as caught:
        read_corpus(path, strict=strict)
    line = str(caught.value)
    assert "\n" not in line and "expected" in line and "got" in line and str(path) in line
    return line


def ids(corpus: Corpus) -> list[str]:
    return [d.id for d in corpus]


def test_each_kind_becomes_documents(tmp_path: Path) -> None:
    put(
        tmp_path, a_txt="Plain.", b_md="# Marked", c_jsonl='{"id": "x", "title": "T", "source": "S", "text": "Lined"}\n'
    )
    corpus = read_corpus(tmp_path)
    found = [(d.id, d.title, d.source, d.text) for d in corpus]
    assert found == [("a.txt", "a", "a.txt", "Plain."), ("b.md", "b", "b.md", "# Marked"), ("x", "T", "S", "Lined")]
    assert corpus.skipped == () and len(corpus) == 3


def test_one_file_alone_is_read_under_its_name(tmp_path: Path) -> None:
    put(tmp_path, sub__a_txt="one", sub__b_txt="two")
    assert ids(read_corpus(tmp_path / "sub" / "b.txt")) == ["b.txt"]
    assert ids(read_corpus(str(tmp_path / "sub" / "b.txt"))) == ["b.txt"]


def test_a_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    put(tmp_path, a_TXT="one")
    assert ids(read_corpus(tmp_path)) == ["a.TXT"]


def test_folders_are_read_deep_and_sorted(tmp_path: Path) -> None:
    put(tmp_path, z_txt="1", b__c__deep_md="2", b__a_txt="3", a_txt="4", B_txt="5")
    corpus = read_corpus(tmp_path)
    assert ids(corpus) == ["B.txt", "a.txt", "b/a.txt", "b/c/deep.md", "z.txt"]
    assert corpus.skipped == (), "a folder is no file to skip"


def test_hidden_files_are_passed_over_without_a_word(tmp_path: Path) -> None:
    hidden = put(tmp_path / ".corpus", a_txt="seen")
    put(hidden / ".git", b_txt="no")
    (hidden / ".c.txt").write_text("no")
    corpus = read_corpus(hidden)
    assert ids(corpus) == ["a.txt"] and corpus.skipped == ()


def test_other_and_empty_files_are_skipped_with_the_reason(tmp_path: Path) -> None:
    put(tmp_path, a_txt="kept", b_odt="x", c_txt=" \n\t", d_jsonl="\n \n")
    (tmp_path / "README").write_text("x")
    (tmp_path / "e.tar.gz").write_text("x")
    known = f"one of {', '.join(SUFFIXES)}, alone or with .gz or .zst"
    assert dict(read_corpus(tmp_path, strict=True).skipped) == {
        str(tmp_path / "README"): f"no suffix is not {known}",
        str(tmp_path / "b.odt"): f".odt is not {known}",
        str(tmp_path / "e.tar.gz"): f".tar.gz is not {known}",
        str(tmp_path / "c.txt"): "it is empty",
        str(tmp_path / "d.jsonl"): "it is empty",
    }


def test_a_line_without_an_id_takes_its_texts_hash(tmp_path: Path) -> None:
    lines = [{"text": "höher"}, {"text": "b", "id": None}, {"text": "c", "id": ""}, {"text": "d", "id": 7}]
    put(tmp_path, a_jsonl="\n".join(map(json.dumps, lines)))
    made = [hashlib.sha256(t.encode()).hexdigest()[:16] for t in ("höher", "b", "c")]
    corpus = read_corpus(tmp_path)
    assert ids(corpus) == [*made, "7"]
    assert {(d.title, d.source) for d in corpus} == {("", "a.jsonl")}


def test_zero_is_an_id(tmp_path: Path) -> None:
    put(tmp_path, a_jsonl='{"id": 0, "text": "a"}\n{"id": 1, "text": "b"}\n')
    assert ids(read_corpus(tmp_path)) == ["0", "1"]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    put(tmp_path, a_txt=b"\xef\xbb\xbfone", b_jsonl=b'\xef\xbb\xbf{"id": "x", "text": "two"}')
    assert [d.text for d in read_corpus(tmp_path)] == ["one", "two"]


def test_line_ends_inside_a_json_string_do_not_cut_the_line(tmp_path: Path) -> None:
    put(tmp_path, a_jsonl='{"id": "x", "text": "a\u2028b\x85c"}\r\n{"id": "y", "text": "d"}\r\n')
    assert [d.text for d in read_corpus(tmp_path)] == ["a\u2028b\x85c", "d"]


def test_no_such_path(tmp_path: Path) -> None:
    assert "got no such path" in refusal(tmp_path / "none")


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert f"expected documents in {', '.join(SUFFIXES)}, got none" in refusal(tmp_path, strict=False)


def test_a_folder_of_other_files_says_how_many(tmp_path: Path) -> None:
    put(tmp_path, a_odt="x", b_txt="")
    assert "got 2 files or lines that were skipped, the first" in refusal(tmp_path, strict=False)


@pytest.mark.parametrize(
    ("content", "offset"),
    [(b"caf\xe9 au lait", 3), ("für ".encode() + b"\xff", 5), (b"\xef\xbb\xbfab\xff", 5), (b"a\r\nb\r\n\x80", 6)],
    ids=["latin-1", "after two bytes", "after a mark", "after line ends"],
)
def test_bytes_that_are_not_utf8_are_named_by_their_offset(tmp_path: Path, content: bytes, offset: int) -> None:
    path = put(tmp_path, a_txt=content, b_txt="fine") / "a.txt"
    assert f"expected UTF-8, got byte {offset} that is not" in refusal(path)
    corpus = read_corpus(tmp_path)
    assert ids(corpus) == ["b.txt"]
    assert corpus.skipped == ((str(path), f"expected UTF-8, got byte {offset} that is not"),)


def test_a_line_that_is_not_utf8_costs_only_itself(tmp_path: Path) -> None:
    put(tmp_path, a_jsonl=b'\xef\xbb\xbf{"text": "one"}\n{"text": "caf\xe9"}\n{"text": "two"}')
    corpus = read_corpus(tmp_path)
    assert [d.text for d in corpus] == ["one", "two"]
    left = (f"{tmp_path / 'a.jsonl'}, line 2", "expected UTF-8, got byte 32 that is not")
    assert corpus.skipped == (left,)
    assert "byte 32" in refusal(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("bad", "got"),
    [
        (
            '{"id": "x", "title": "T"}',
            "got an object with keys id (string of 1 character), title (string of 1 character)",
        ),
        ('{"text": "  "}', "keys text (string of spaces)"),
        ('{"text": 5}', "keys text (number)"),
        ('["a", "b"]', "got list of 2"),
        ('"a"', "got string of 1 character"),
        ("null", "got null"),
        ('{"text": "a"', "expected one JSON object a line"),
        ('{"text": "a \\ud800 b"}', "half a surrogate pair"),
        ('{"id": "\\udc00", "text": "a"}', "half a surrogate pair"),
    ],
)
def test_a_line_that_is_no_document_is_named_by_its_number(tmp_path: Path, bad: str, got: str) -> None:
    put(tmp_path, a_jsonl=f'{{"text": "fine"}}\n\n{bad}\n{{"text": "good"}}\n')
    line = refusal(tmp_path / "a.jsonl")
    assert got in line and "a.jsonl, line 3)" in line
    corpus = read_corpus(tmp_path)
    assert [d.text for d in corpus] == ["fine", "good"]
    assert [file for file, _ in corpus.skipped] == [f"{tmp_path / 'a.jsonl'}, line 3"] and got in corpus.skipped[0][1]


def test_equal_ids_are_made_distinct_by_file_and_in_a_file_by_number(tmp_path: Path) -> None:
    put(
        tmp_path,
        a_jsonl='{"id": 1, "text": "a"}\n{"id": 1, "text": "b"}\n{"id": 1, "text": "c"}\n{"id": "1 (2)", "text": "d"}\n',
        deep__b_csv="id,text\n1,e\n2,f\n1,g\n",
        deep__c_tsv="id\ttext\n1\th\n2\ti\n",
    )
    corpus = read_corpus(tmp_path, strict=True)
    assert [(d.id, d.text) for d in corpus] == [
        ("1", "a"),
        ("1 (2)", "b"),
        ("1 (3)", "c"),
        ("1 (2) (2)", "d"),
        ("1 [deep/b.csv]", "e"),
        ("2", "f"),
        ("1 (2) [deep/b.csv]", "g"),
        ("1 [deep/c.tsv]", "h"),
        ("2 [deep/c.tsv]", "i"),
    ]
    assert corpus.skipped == ()


def test_a_file_that_comes_earlier_moves_no_document_to_the_other_side(tmp_path: Path) -> None:
    notes = "".join(json.dumps({"id": n, "text": f"note {n}"}) + "\n" for n in range(200))

    def heldout() -> set[str]:
        return {d.text for d in split_documents(read_corpus(tmp_path), 0.1, "").heldout}

    put(tmp_path, b_jsonl=notes)
    before = heldout()
    put(tmp_path, a_jsonl=notes.replace("note", "other"))
    assert {text for text in heldout() if text.startswith("note")} == before and len(before) > 5


def test_a_name_that_is_not_utf8_is_escaped_in_ids_and_messages(tmp_path: Path) -> None:
    for name, content in ((b"caf\xe9.txt", b"one"), (b"caf\xe9.jsonl", b'{"text": "two"}\n{}\n'), (b"\xff.odt", b"x")):
        (tmp_path / os.fsdecode(name)).write_bytes(content)
    (tmp_path / os.fsdecode(b"d\xe9p")).mkdir()
    (tmp_path / os.fsdecode(b"d\xe9p/a\nb.md")).write_bytes(b"three")
    corpus = read_corpus(tmp_path)
    assert {(d.id, d.source, d.text) for d in corpus if d.text != "two"} == {
        ("caf\\udce9.txt", "caf\\udce9.txt", "one"),
        ("d\\udce9p/a\\nb.md", "d\\udce9p/a\\nb.md", "three"),
    }
    assert [d.source for d in corpus if d.text == "two"] == ["caf\\udce9.jsonl"]
    assert sorted(Path(file).name for file, _ in corpus.skipped) == ["\\udcff.odt", "caf\\udce9.jsonl, line 2"]


def test_one_text_twice_without_ids_is_left_to_deduplication(tmp_path: Path) -> None:
    put(tmp_path, a_jsonl='{"text": "a"}\n{"text": "a"}\n')
    corpus = read_corpus(tmp_path, strict=True)
    assert [d.text for d in corpus] == ["a", "a"] and len(set(ids(corpus))) == 1


def test_the_digest_follows_ids_texts_and_order(tmp_path: Path) -> None:
    def digest(*documents: tuple[str, str]) -> str:
        put(tmp_path, a_jsonl="\n".join(json.dumps({"id": i, "text": t}) for i, t in documents))
        return read_corpus(tmp_path).sha256()

    first = digest(("x", "a"), ("y", "b"))
    others = [digest(("y", "b"), ("x", "a")), digest(("x", "b"), ("y", "a")), digest(("x", "a"), ("y", "bc"))]
    assert first == digest(("x", "a"), ("y", "b"))
    assert len({first, *others}) == 4
