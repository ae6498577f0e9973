"""Every format becomes documents, compressed or not; every fault skips a file or a line, with the reason.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from cogen.data import Corpus, Document, document, iter_corpus, read_corpus
from cogen.data.formats import READERS, split_suffix
from cogen.errors import DataError

ARTICLE = "The relay trips within forty milliseconds when the line current passes the set point. " * 4
PAGE = (
    "<html><head><title>Relays</title><meta charset='utf-8'></head><body><nav><a href='/'>Home</a> <a href='/x'>Shop"
    f"</a></nav><article><h1>Relays</h1><p>{ARTICLE}</p><p>Zweiter Absatz für Prüfer. {ARTICLE}</p></article>"
    "<footer>Imprint and cookies</footer></body></html>"
)


def pdf(pages: list[list[str]], title: str = "") -> bytes:
    """Pages of lines, as a word processor would print them."""
    from fpdf import FPDF

    made = FPDF()
    made.set_font("helvetica", size=11)
    if title:
        made.set_title(title)
    for lines in pages:
        made.add_page()
        for line in lines:
            made.cell(0, 8, line, new_x="LMARGIN", new_y="NEXT")
    return bytes(made.output())


def docx(title: str = "") -> bytes:
    import docx as library

    made = library.Document()
    made.core_properties.title = title
    made.add_heading("Beams", 1)
    made.add_paragraph("A beam carries load across a span.")
    table = made.add_table(2, 2)
    for row, cells in enumerate((("steel", "210"), ("timber", "11"))):
        for column, text in enumerate(cells):
            table.cell(row, column).text = text
    made.add_paragraph("After the table.")
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def parquet(columns: dict[str, list[Any]], **options: Any) -> bytes:
    import pyarrow
    from pyarrow.parquet import write_table

    out = io.BytesIO()
    write_table(pyarrow.table(columns), out, **options)
    return out.getvalue()


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def reason(corpus: Corpus, name: str) -> str:
    """Why the one file or line that ends in `name` was skipped."""
    (found,) = [why for file, why in corpus.skipped if file.endswith(name)]
    return found


def refused(path: Path) -> str:
    """The one line of an error, in strict reading; otherwise the rest is read."""
    with pytest.raises(DataError) as caught:
        read_corpus(path, strict=True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SAMPLES: dict[str, tuple[bytes, list[str]]] = {
    ".txt": (b"Plain text.", ["Plain text."]),
    ".md": ("# Märkte\r\n\r\n- a".encode(), ["# Märkte\n\n- a"]),
    ".jsonl": (b'{"text": "one"}\n{"text": "two"}\n', ["one", "two"]),
    ".csv": (b'id,text\n1,"one, and\nmore"\n2,two\n', ["one, and\nmore", "two"]),
    ".tsv": (b"text\tid\none, two\t1\n", ["one, two"]),
    ".docx": (docx(), ["Beams\nA beam carries load across a span.\nsteel\t210\ntimber\t11\nAfter the table."]),
    ".pdf": (pdf([["first page", "line two"], ["second page"]]), ["first page\nline two\fsecond page"]),
    ".parquet": (parquet({"text": ["one", "two"]}), ["one", "two"]),
}


@pytest.mark.parametrize("packing", ["", ".gz", ".zst", ".GZ"])
@pytest.mark.parametrize("suffix", sorted(SAMPLES))
def test_each_format_is_read_packed_or_not(tmp_path: Path, suffix: str, packing: str) -> None:
    import zstandard

    content, texts = SAMPLES[suffix]
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[packing.lower()]
    put(tmp_path, f"deep/notes{suffix}{packing}", pack(content))
    corpus = read_corpus(tmp_path, strict=True)
    assert [d.text for d in corpus] == texts and corpus.skipped == ()
    if len(texts) == 1 and suffix != ".tsv":
        name = f"deep/notes{suffix}{packing}"
        assert corpus.documents == (Document(id=name, title="notes", text=texts[0], source=name),)


def test_a_page_is_its_article_without_the_menu(tmp_path: Path) -> None:
    put(tmp_path, "a.html", PAGE)
    put(tmp_path, "b.htm.gz", gzip.compress(PAGE.encode()))
    put(tmp_path, "c.html", "<p>Too short for an article.</p>")
    put(tmp_path, "d.html", PAGE.replace("utf-8", "iso-8859-1").encode("latin-1"))
    first, second, short, latin = read_corpus(tmp_path, strict=True)
    assert "Zweiter Absatz für Prüfer." in first.text and "Imprint" not in first.text and "Shop" not in first.text
    assert (first.title, first.id, second.id) == ("Relays", "a.html", "b.htm.gz")
    assert first.text == second.text == latin.text
    assert short.text.strip() == "Too short for an article."


def test_every_reader_has_a_sample_here() -> None:
    assert set(READERS) == {*SAMPLES, ".html", ".htm"}
    assert split_suffix("a.b.JSONL.zst") == ("a.b", ".jsonl", ".zst")
    assert split_suffix("a.gz") == ("a", "", ".gz")


def test_titles_inside_a_file_are_kept(tmp_path: Path) -> None:
    put(tmp_path, "a.pdf", pdf([["text"]], title="Protection"))
    put(tmp_path, "b.docx", docx(title="Structures"))
    assert [d.title for d in read_corpus(tmp_path)] == ["Protection", "Structures"]


def test_a_pdfs_pages_keep_their_lines(tmp_path: Path) -> None:
    """What stands on every page can only be told from lines that are still whole."""
    pages = [["City Hospital Ward Manual", f"Rule {n} is here.", f"Page {n} of 9"] for n in range(1, 10)]
    put(tmp_path, "a.pdf", pdf(pages))
    (found,) = read_corpus(tmp_path)
    assert [page.split("\n") for page in found.text.split("\f")] == pages


def test_a_scanned_and_a_broken_pdf_are_skipped(tmp_path: Path) -> None:
    put(tmp_path, "broken.pdf", pdf([["text"]])[:300])
    put(tmp_path, "garbage.pdf", os.urandom(2000))
    put(tmp_path, "good.txt", "kept")
    put(tmp_path, "scan.pdf", pdf([[], [], []]))
    corpus = read_corpus(tmp_path)
    assert [d.id for d in corpus] == ["good.txt"]
    assert reason(corpus, "scan.pdf") == "expected text, got 3 pages without a text layer"
    assert "expected a whole PDF" in reason(corpus, "broken.pdf")
    assert "expected a whole PDF" in reason(corpus, "garbage.pdf")
    assert "text recognition" in refused(tmp_path / "scan.pdf")


def test_a_pdf_with_a_password_is_skipped(tmp_path: Path) -> None:
    import pypdf

    writer = pypdf.PdfWriter(io.BytesIO(pdf([["secret"]])))
    writer.encrypt("word", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    put(tmp_path, "a.pdf", out.getvalue())
    assert "got one with a password" in refused(tmp_path)


@pytest.mark.parametrize("name", ["a.docx", "a.parquet", "a.jsonl.gz", "a.txt.zst"])
@pytest.mark.parametrize("cut", [None, 20, 60])
def test_what_is_not_what_its_suffix_says_is_skipped(tmp_path: Path, name: str, cut: int | None) -> None:
    import zstandard

    text = json.dumps({"text": os.urandom(300).hex()}).encode()
    whole = {
        "a.docx": docx(),
        "a.parquet": parquet({"text": ["one"] * 99}),
        "a.jsonl.gz": gzip.compress(os.urandom(300) + text),
        "a.txt.zst": zstandard.compress(text),
    }[name]
    put(tmp_path, name, b"no such thing at all" if cut is None else whole[:-cut])
    put(tmp_path, "b.txt", "kept")
    corpus = read_corpus(tmp_path)
    assert [d.id for d in corpus if d.id == "b.txt"] == ["b.txt"]
    assert any(file.startswith(str(tmp_path / name)) for file, _ in corpus.skipped)
    assert str(tmp_path / name) in refused(tmp_path)


def test_frames_end_to_end_are_one_file(tmp_path: Path) -> None:
    import zstandard

    parts = [b'{"text": "one"}\n', b'{"text": "two"}\n{"text": "', b"x" * 900_000 + b'"}\n']
    put(tmp_path, "a.jsonl.zst", b"".join(map(zstandard.compress, parts)))
    put(tmp_path, "b.jsonl.gz", b"".join(map(gzip.compress, parts)))
    put(tmp_path, "c.txt.zst", b"")
    assert [len(d.text) for d in read_corpus(tmp_path, strict=True)] == [3, 3, 900_000] * 2


def test_bytes_named_txt_are_skipped(tmp_path: Path) -> None:
    put(tmp_path, "a.txt", b"ELF\0\0\0\1text")
    put(tmp_path, "b.txt", "kept")
    assert reason(read_corpus(tmp_path), "a.txt") == "expected text, got zero bytes"


def test_utf16_with_its_mark_is_read(tmp_path: Path) -> None:
    put(tmp_path, "a.txt", "Größe 水泥\r\nzwei".encode("utf-16"))
    put(tmp_path, "b.jsonl", '{"text": "Prüfung"}\n{"text": "zwei"}\n'.encode("utf-16-be").join([b"\xfe\xff", b""]))
    put(tmp_path, "c.csv", "text\nÜber\n".encode("utf-16"))
    assert [d.text for d in read_corpus(tmp_path, strict=True)] == ["Größe 水泥\nzwei", "Prüfung", "zwei", "Über"]
    put(tmp_path, "d.txt", "half".encode("utf-16")[:-1])
    assert "UTF-16" in refused(tmp_path)


def test_the_column_of_text_is_found_or_asked_for(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "id;body;source\n7;one, two;S\n")
    put(tmp_path, "b.parquet", parquet({"n": [1], "body": ["three"], "title": ["T"]}))
    put(tmp_path, "c.csv", "body,notes\na,b\n")
    put(tmp_path, "d.parquet", parquet({"body": ["a"], "notes": ["b"]}))
    put(tmp_path, "e.csv", "Text,notes\nfive,b\n")
    put(tmp_path, "f.parquet", parquet({"n": [1, 2]}))
    corpus = read_corpus(tmp_path)
    found = [(d.id, d.title, d.text, d.source) for d in corpus]
    assert found[0] == ("7", "", "one, two", "S")
    assert found[1][1:] == ("T", "three", "b.parquet") and found[2][2] == "five"
    assert reason(corpus, "c.csv") == "expected a column `text`, or one column of text, got columns 'body', 'notes'"
    assert "'body', 'notes'" in reason(corpus, "d.parquet") and "'n'" in reason(corpus, "f.parquet")


def test_a_bad_row_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "id,text\n1,one\n2,\n\n3,three\n")
    put(tmp_path, "b.parquet", parquet({"id": [4, 5], "text": ["four", None]}))
    corpus = read_corpus(tmp_path)
    assert [(d.id, d.text) for d in corpus] == [("1", "one"), ("3", "three"), ("4", "four")]
    assert [file for file, _ in corpus.skipped] == [
        f"{tmp_path / 'a.csv'}, line 3",
        f"{tmp_path / 'b.parquet'}, row 2",
    ]


def test_a_row_without_end_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its bytes, whatever Python or Arrow counts. Red: no limit in `document_of`; one in characters."""
    monkeypatch.setattr(document, "MAX_DOCUMENT_BYTES", 500)
    texts = ["one", "x" * 501, "ü" * 251, "ü" * 250]
    put(tmp_path, "a.parquet", parquet({"text": texts}))
    put(tmp_path, "b.csv", 'text\n"' + ("ü" * 100 + "\n") * 3 + '"\nfine\n')
    corpus = read_corpus(tmp_path)
    assert [d.text for d in corpus] == ["one", "ü" * 250, "fine"]
    why = "expected at most 500 bytes in one document, got more"
    assert [(Path(file).name, reason) for file, reason in corpus.skipped] == [
        ("a.parquet, row 2", why),
        ("a.parquet, row 3", why),
        ("b.csv, line 2", why),
    ]


def test_rows_of_parquet_become_pythons_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that is too long does not become one at all. Red: `to_pylist`; no look at Arrow's size."""
    monkeypatch.setattr(document, "MAX_DOCUMENT_BYTES", 500)
    asked: list[int] = []
    monkeypatch.setattr("cogen.data.formats.parquet.document_of", lambda values, *_: asked.append(len(values["text"])))
    put(tmp_path, "a.parquet", parquet({"text": ["x" * n for n in (400, 501, 300)], "n": [1, 2, 3]}))
    rows = READERS[".parquet"]((tmp_path / "a.parquet").open("rb"), document.SourceLocation("a", "a", "a"))
    note = next(rows)
    assert isinstance(note, document.Note) and "columns not read: 'n' (int64" in note.text
    next(rows)
    assert asked == [400]
    assert [isinstance(row, document.Skipped) for row in rows] == [True, False] and asked == [400, 300]


def test_columns_of_other_types_are_told_apart(tmp_path: Path) -> None:
    """Words by number, as Arrow writes those of few kinds, and numbers called text."""
    import pyarrow

    put(tmp_path, "a.parquet", parquet({"text": pyarrow.array(["one", "two", "one", None]).dictionary_encode()}))
    put(tmp_path, "b.parquet", parquet({"text": [1, 2]}))
    corpus = read_corpus(tmp_path)
    assert [d.text for d in corpus] == ["one", "two", "one"]
    assert [file.rpartition(", ")[2] for file, _ in corpus.skipped] == ["row 4", str(tmp_path / "b.parquet")]
    why = "expected a column `text` of strings, got `text` of int64; columns: 'text' of int64"
    assert reason(corpus, "b.parquet") == why


def test_a_quote_that_never_ends_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MAX_DOCUMENT_BYTES", 500)
    put(tmp_path, "a.csv", "id,text\n1,one\n" + '2,"open\n' + "x,y\n" * 400)
    corpus = read_corpus(tmp_path)
    assert [d.text for d in corpus] == ["one"] and "got more than 500 characters" in corpus.skipped[0][1]


def test_a_field_above_the_librarys_own_limit_is_read(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "text\n" + "word " * 40_000 + "\n")
    assert len(next(iter(read_corpus(tmp_path, strict=True))).text) == 200_000


def test_a_line_or_file_without_end_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red: the rest of a long line read as a line of its own; no limit at all."""
    monkeypatch.setattr(document, "MAX_DOCUMENT_BYTES", 1000)
    put(tmp_path, "a.jsonl", '{"text": "one"}\n{"text": "' + "x" * 200_000 + '"}\n{"text": "two"}\n')
    for name in ("b.txt", "c.html"):
        put(tmp_path, name, "y" * 1001)
    put(tmp_path, "d.txt", "z" * 1000)
    put(tmp_path, "e.docx", docx())
    corpus = read_corpus(tmp_path)
    assert [d.text[:3] for d in corpus] == ["one", "two", "zzz"]
    why = "expected at most 1000 bytes in one document, got more"
    assert [(Path(f).name, w) for f, w in corpus.skipped] == [
        ("a.jsonl, line 2", why),
        ("b.txt", why),
        ("c.html", why),
        ("e.docx", why),
    ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_gigabytes_without_a_line_end_pass_in_little_memory(tmp_path: Path) -> None:
    """A sparse file of 768 MiB: in a process of its own, whose memory is limited to far less."""
    import subprocess

    path = put(tmp_path, "a.jsonl", '{"text": "one"}\n')
    os.truncate(path, 768 * 2**20)
    script = (
        "import sys; from cogen.data import read_corpus; c = read_corpus(sys.argv[1]);"
        # ru_maxrss would begin at the size of the process that started this one
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'));"
        "print(len(c), c.skipped[0][1], int(peak.split()[1]) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    count, *why, peak_mib = done.stdout.split()
    assert count == "1" and " ".join(why) == "expected at most 67108864 bytes in one document, got more"
    assert int(peak_mib) < 600


def test_links_do_not_loop_and_nothing_is_read_twice(tmp_path: Path) -> None:
    root, outside = tmp_path / "corpus", tmp_path / "outside"
    put(root, "a.txt", "a")
    put(outside, "b.txt", "b")
    put(outside, "sub/c.txt", "c")
    (root / "b-loop").symlink_to(root)
    (root / "c-copy.txt").symlink_to(root / "a.txt")
    (root / "d-linked").symlink_to(outside)
    (root / "e-linked").symlink_to(outside)
    (root / "f-nowhere.txt").symlink_to(tmp_path / "none")
    (root / "g-up").symlink_to(tmp_path)
    (outside / "sub" / "back").symlink_to(outside)
    corpus = read_corpus(root)
    assert [d.id for d in corpus] == ["a.txt", "d-linked/b.txt", "d-linked/sub/c.txt"]
    assert {Path(f).name: why for f, why in corpus.skipped} == {
        "b-loop": "it is a link to a folder that it lies in",
        "c-copy.txt": "it is a link to what is read in its own place",
        "back": "it is a link to what was read already",
        "e-linked": "it is a link to what was read already",
        "f-nowhere.txt": "it is a link that leads nowhere",
        "g-up": "it is a link to a folder that it lies in",
    }


def test_a_link_to_something_hidden_inside_is_followed(tmp_path: Path) -> None:
    """As data under version control often lies: names outside, contents in a hidden store."""
    put(tmp_path, ".store/x", "content")
    (tmp_path / "a.txt").symlink_to(tmp_path / ".store" / "x")
    assert [d.text for d in read_corpus(tmp_path)] == ["content"]


def test_what_is_no_file_does_not_hang(tmp_path: Path) -> None:
    put(tmp_path, "b.txt", "b")
    os.mkfifo(tmp_path / "a.txt")
    corpus = read_corpus(tmp_path)
    assert [d.id for d in corpus] == ["b.txt"] and reason(corpus, "a.txt") == "it is no file"


def test_a_library_that_is_missing_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdf", None)
    put(tmp_path, "a.pdf", pdf([["text"]]))
    put(tmp_path, "b.txt", "b")
    corpus = read_corpus(tmp_path)
    assert [d.id for d in corpus] == ["b.txt"]
    assert "pip install 'cogen-ai[formats]'" in reason(corpus, "a.pdf")
    assert "expected the library pypdf (pip install 'cogen-ai[formats]')" in refused(tmp_path)


def test_documents_come_one_at_a_time(tmp_path: Path) -> None:
    """A file is opened only when its turn comes."""
    put(tmp_path, "a.jsonl", '{"text": "one"}\n{"text": "two"}\n')
    later = put(tmp_path, "b.txt", "three")
    items = iter_corpus(tmp_path)
    assert getattr(next(items), "text", "") == "one"
    later.write_text("changed")
    assert [getattr(i, "text", "") for i in items] == ["two", "changed"]


def test_the_hub_without_a_network_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="expected a dataset in the hub's cache, or a network") as caught:
        read_corpus("hf://datasets/cogen-tests/nothing/part")
    assert "(hf://datasets/cogen-tests/nothing/part)" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"expected hf://datasets/OWNER/NAME\[@REVISION\]"):
        read_corpus("hf://datasets/nothing")
