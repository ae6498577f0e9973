"""Small files that unpack to large ones cost a reason, little memory and little disk, and not the corpus.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from cogen.data.document import Document, Item, Note, Skipped
from cogen.data.formats import bytes_of, compressed, read_file, zipped
from tests.pdfs import Pdf, shown, stream
from tests.unit.test_formats import docx, parquet

MIB = 2**20
ROOT = Path(__file__).parents[2]


def read(folder: Path, name: str, content: bytes) -> list[Item]:
    """What is read in this process; the bytes add up where the file is not packed."""
    path = folder / name
    path.write_bytes(content)
    items = [i for i in read_file(path, name) if not (isinstance(i, Note) and not i.text and not i.num_bytes)]
    assert all(bytes_of(item) >= 0 for item in items)
    if not name.endswith((".gz", ".zst")):
        assert sum(map(bytes_of, items)) == len(content)
    return items


def reason(folder: Path, name: str, content: bytes) -> str:
    """Why the file, or the rest of it, was not read."""
    *_, last = read(folder, name, content)
    assert isinstance(last, Skipped) and last.is_loss and last.error is not None and "\n" not in str(last.error)
    return last.reason


def zstd(content: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=19).compress(content)


PACKERS = {".gz": gzip.compress, ".zst": zstd}


@pytest.mark.parametrize("packing", sorted(PACKERS))
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".html", ".pdf", ".docx", ".parquet"])
@pytest.mark.parametrize("num_frames", [1, 30])
def test_a_file_that_unpacks_to_far_more_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, packing: str, num_frames: int
) -> None:
    """Zeros, in one frame or many. Red: no look at the ratio; one that counts a frame alone."""
    monkeypatch.setattr(compressed, "FREE_BYTES", MIB)
    content = PACKERS[packing](bytes(30 * MIB // num_frames)) * num_frames
    why = reason(tmp_path, f"a{suffix}{packing}", content)
    if suffix == ".csv" and "unpacks" not in why:
        return  # refused for what its header is
    assert why.startswith("expected a file that unpacks to at most 200 times its size, got ") and " MiB from the" in why


@pytest.mark.parametrize("packing", sorted(PACKERS))
def test_lines_before_a_bomb_are_read_and_honest_files_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str
) -> None:
    """A log that packs to a fiftieth is no bomb. Red: a ratio that does without FREE_BYTES, or is five times lower."""
    monkeypatch.setattr(compressed, "FREE_BYTES", MIB)
    lines = b"".join(
        json.dumps({"text": f"The pump {zlib.crc32(b'%d' % n):x} stopped. " * 12}).encode() + b"\n" for n in range(4000)
    )
    packed = PACKERS[packing](lines)
    assert 20 < len(lines) / len(packed) < 200
    assert len(read(tmp_path, f"a.jsonl{packing}", packed)) == 4000
    items = read(tmp_path, f"b.jsonl{packing}", packed + PACKERS[packing](bytes(300 * MIB)))
    assert sum(isinstance(item, Document) for item in items) == 4000 and "200 times" in getattr(items[-1], "reason", "")
    assert len(read(tmp_path, f"c.txt{packing}", PACKERS[packing](b"one " * 200_000))) == 1, (
        "little of it harms nothing"
    )


def test_a_frame_that_asks_for_much_memory_is_refused(tmp_path: Path) -> None:
    """A window of 2 GiB in a file of a few bytes. Red: the largest window that the library knows."""
    header = b"\x28\xb5\x2f\xfd" + bytes([0b00000000, (31 - 10) << 3])
    block = (1 | 1 << 1 | (5 << 3)).to_bytes(3, "little") + b"x"  # the last one: five times x
    assert "too much memory" in reason(tmp_path, "a.txt.zst", header + block)
    small = b"\x28\xb5\x2f\xfd" + bytes([0, (20 - 10) << 3]) + block
    assert [getattr(i, "text", "") for i in read(tmp_path, "b.txt.zst", small)] == ["xxxxx"]


def test_the_disk_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formats that are not read from front to back are unpacked to the disk. Red: one of the two limits."""
    noise = gzip.compress(bytes(range(256)) * 4096)
    monkeypatch.setattr(compressed, "MAX_COPY_BYTES", MIB // 2)
    assert reason(tmp_path, "a.pdf.gz", noise).startswith("expected at most 0 MiB when unpacked, got more")
    monkeypatch.setattr(compressed, "MAX_COPY_BYTES", 9 * MIB)
    usage = type(shutil.disk_usage("/"))(100 * MIB, 0, 10 * MIB + MIB // 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert reason(tmp_path, "a.pdf.gz", noise).startswith("expected room on the disk to unpack it, got room for 0 MiB")


def archive(*entries: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as made:
        for name, content in entries:
            made.writestr(name, content)
    return out.getvalue()


def lying(claimed: int) -> bytes:
    """A part that says it is as long as `claimed`, with a matching checksum, and unpacks to 300 kB of zeros."""
    whole = archive(("word/document.xml", bytes(300_000)))
    true = struct.pack("<LL", zlib.crc32(bytes(300_000)), 0)[:4]
    told = struct.pack("<L", zlib.crc32(bytes(claimed)))
    return whole.replace(true, told).replace(struct.pack("<L", 300_000), struct.pack("<L", claimed))


def overlapping() -> bytes:
    """Twenty names for the bytes of one part."""
    whole = archive(("word/document.xml", bytes(1000)))
    at = whole.index(b"PK\x01\x02")
    entry, end = whole[at : whole.index(b"PK\x05\x06")], whole[whole.index(b"PK\x05\x06") :]
    end = end[:8] + struct.pack("<HHL", 20, 20, 20 * len(entry)) + end[16:]
    return whole[:at] + entry * 20 + end


def with_entities(encoding: str) -> bytes:
    text = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbb">]><a>&b;</a>'
    return archive(("word/document.xml", text.encode(encoding)))


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda: lying(1000), "is not as long as the archive says"),
        (lambda: lying(400_000), "is not as long as the archive says"),
        (overlapping, "in the same bytes"),
        (lambda: with_entities("utf-8"), "that declares entities"),
        (lambda: with_entities("utf-16"), "that declares entities"),
        (lambda: archive(("a.xml", b"x" * 999), method=zipfile.ZIP_BZIP2), "in a way that Word does not use"),
        (lambda: archive(("a.xml", b"x" * 999), method=zipfile.ZIP_LZMA), "in a way that Word does not use"),
        (lambda: archive(*((f"{n}.xml", b"") for n in range(300))), "at most 200 entries, got 300"),
        (lambda: archive(("a.png", bytes(9 * MIB))), "at most 8 MiB when unpacked, got 9"),
        (lambda: archive(("a.png", bytes(7 * MIB))), "an archive that unpacks to at most 200 times its size"),
        (
            lambda: archive(("a.xml", bytes(7 * MIB)), method=zipfile.ZIP_STORED),
            "at most 6291456 bytes in one document",
        ),
        (lambda: archive(("a.xml", b""))[:-30], "zip"),
        (lambda: archive(("a.xml", bytes(99)))[4:], ""),
    ],
)
def test_an_archive_that_lies_or_grows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], bytes], got: str
) -> None:
    """Red: the directory believed; without one of the checks."""
    from cogen.data import document

    monkeypatch.setattr(zipped, "MAX_ENTRIES", 200)
    monkeypatch.setattr(zipped, "MAX_ARCHIVE_BYTES", 8 * MIB)
    monkeypatch.setattr(zipped, "FREE_BYTES", MIB)
    monkeypatch.setattr(document, "MAX_DOCUMENT_BYTES", 6 * MIB)
    assert got in reason(tmp_path, "a.docx", make())


def test_an_honest_archive_is_read(tmp_path: Path) -> None:
    (found,) = read(tmp_path, "a.docx", docx())
    assert isinstance(found, Document)
    # as streams are written that do not know their sizes at first: sizes after the content, and some bytes before all
    out = io.BytesIO()

    class Pipe(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, content) -> int:  # type: ignore[no-untyped-def,override]
            return out.write(content)

    with zipfile.ZipFile(io.BytesIO(docx())) as source, zipfile.ZipFile(Pipe(), "w", zipfile.ZIP_DEFLATED) as made:  # type: ignore[arg-type]
        for entry in source.infolist():
            made.writestr(entry.filename, source.read(entry))
    for content in (out.getvalue(), b"some bytes before" + out.getvalue()):
        assert [getattr(i, "text", "") for i in read(tmp_path, "a.docx", content)] == [found.text]


def word_of_empty_paragraphs() -> bytes:
    """Sixty MiB of XML, which pack to less than one: a tree of gigabytes in memory."""
    with zipfile.ZipFile(io.BytesIO(docx())) as source:
        parts = {entry.filename: source.read(entry) for entry in source.infolist()}
    body = parts["word/document.xml"]
    at = body.index(b"<w:body>") + len(b"<w:body>")
    parts["word/document.xml"] = body[:at] + b"<w:p/>" * (60 * MIB // 6) + body[at:]
    return archive(*parts.items())


def table_of_one_text() -> bytes:
    """Forty MiB of text in each of a thousand rows, once in the file."""
    import pyarrow

    rows = pyarrow.DictionaryArray.from_arrays([0] * 1000, pyarrow.array(["x" * (40 * MIB)]))
    return parquet({"text": rows}, compression="zstd")


def pdf_of_objects() -> bytes:
    """An object stream that unpacks to a gigabyte."""
    made = Pdf()
    made.page(shown("one"))
    packer = zlib.compressobj(9)
    content = b"".join(packer.compress(b"99 0 " * (MIB // 5)) for _ in range(1000)) + packer.flush()
    made.add(stream(content, b"/Type /ObjStm /N 100000000 /First 100000000 /Filter /FlateDecode"))
    made.page(b"", fonts={"F": 99})
    return made.bytes()


BOMBS: dict[str, Callable[[], bytes]] = {
    "a.docx": word_of_empty_paragraphs,
    "b.html": lambda: b"<html><body>" + b"<div>" * 3_000_000 + b"deep",
    "c.html": lambda: b"<html><body>" + b"<p><b>x</b>" * (60 * MIB // 11),
    "d.parquet": table_of_one_text,
    "e.pdf": pdf_of_objects,
    "f.pdf.gz": lambda: gzip.compress(bytes(64 * MIB)) * 48,
    "g.docx.zst": lambda: zstd(bytes(64 * MIB)) * 48,
}
SCRIPT = """
import json, resource, sys
from pathlib import Path
from cogen.data.document import Document
from cogen.data.formats import bytes_of
from cogen.data.formats.isolated import ReaderProcess
path = Path(sys.argv[1])
with ReaderProcess() as process:
    items = [(type(i).__name__, getattr(i, "reason", ""), bytes_of(i)) for i in process.read(path, path.name)]
own = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([items, int(own.split()[1]) // 1024, child // 1024]))
"""


MEMORY, RATIO = "takes at most 1,500 MiB of memory, got more", "unpacks to at most 200 times its size, got 64 MiB"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("a.docx", "takes at most", marks=pytest.mark.slow),  # of memory, or on a slow machine of time
        pytest.param("b.html", "", marks=pytest.mark.slow),
        pytest.param("c.html", MEMORY, marks=pytest.mark.slow),
        ("d.parquet", "at most 200 characters of text for each of its bytes"),
        pytest.param("e.pdf", "", marks=pytest.mark.slow),
        ("f.pdf.gz", RATIO),
        pytest.param("g.docx.zst", RATIO, marks=pytest.mark.slow),
    ],
)
def test_real_bombs_stay_within_their_memory(tmp_path: Path, name: str, reason: str) -> None:
    """Whatever becomes of it, in a process of its own whose memory is measured; the one that asks keeps its own."""
    path = tmp_path / name
    path.write_bytes(BOMBS[name]())
    argv = [sys.executable, "-c", SCRIPT, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT, timeout=550)
    items, own_mib, child_mib = json.loads(done.stdout)
    assert items and reason in items[-1][1] and child_mib < 1500 + 400 and own_mib < 900
    if not name.endswith(("gz", "zst")):
        assert sum(num for *_, num in items) == path.stat().st_size


def test_one_text_many_times_over_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a table of one text in a million rows: it would fill the disk of the reader. Red: no look at the text."""
    import pyarrow

    from cogen.data.formats import isolated

    monkeypatch.setattr(isolated, "FREE_BYTES", MIB)
    rows = pyarrow.DictionaryArray.from_arrays([0] * 3000, pyarrow.array(["fine words " * 1000]))
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet({"text": rows}, compression="zstd"))
    with isolated.ReaderProcess() as process:
        *found, last = process.read(path, "a.parquet")
    assert isinstance(last, Skipped) and "at most 200 characters of text for each of its bytes" in last.reason
    assert 50 < len(found) < 150 and sum(map(bytes_of, [*found, last])) == path.stat().st_size
