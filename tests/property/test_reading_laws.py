"""Nothing of a file is lost: the bytes of documents, skipped parts and notes add up to the bytes of the file.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogen.data import Document
from cogen.data.document import Item, Note, Skipped
from cogen.data.formats import COMPRESSED_SUFFIXES, READERS, read_file
from cogen.data.formats.isolated import Limits, ReaderProcess
from tests.accounted import require_accounted
from tests.pdfs import SCAN, book, shown
from tests.same_folder import emptied_folder
from tests.unit.test_formats import PAGE, docx, parquet

# Lines that a reader of lines may meet: blank ones, good ones, bad ones, characters of every width, a bad encoding.
LINES = st.lists(
    st.one_of(
        st.sampled_from([b"", b"  ", b"\r", b'{"text": "fine"}', b'{"id": 1}', b"{", b"null", b"caf\xe9", b"\x00"]),
        st.text(max_size=12).map(lambda t: json.dumps({"text": t}, ensure_ascii=False).encode("utf-8", "replace")),
    ),
    max_size=12,
)


def items(folder: Path, suffix: str, content: bytes) -> list[Item]:
    """What reading the file gives; a file that it is no fault to have is an item too."""
    path = folder / f"a{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    return list(read_file(path, path.name))


@settings(max_examples=300, deadline=None)
@given(lines=LINES, end=st.sampled_from([b"", b"\n"]), mark=st.sampled_from([b"", b"\xef\xbb\xbf"]))
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".txt", ".md.gz"])
def test_lines_add_up(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, lines: list[bytes], end: bytes, mark: bytes
) -> None:
    """Red: a blank line without a note; a line that is too long counted up to the limit."""
    content = mark + b"\n".join(lines) + end
    require_accounted(items(emptied_folder(tmp_path_factory), suffix, content), len(content))


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=8))
def test_lines_in_utf16_are_counted_as_they_are_in_the_file(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    """Red: bytes of UTF-8; four bytes for a character that UTF-16 writes in two, or the other way round."""
    content = "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts).encode("utf-16")
    require_accounted(items(emptied_folder(tmp_path_factory), ".jsonl", content), len(content))


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=300))
@pytest.mark.parametrize("suffix", sorted(READERS))
@pytest.mark.parametrize("packing", ["", *COMPRESSED_SUFFIXES])
def test_any_bytes_are_a_document_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, packing: str, content: bytes
) -> None:
    path = emptied_folder(tmp_path_factory) / f"a{suffix}{packing}"
    path.write_bytes(content)
    found = list(read_file(path, path.name))
    assert found and all(isinstance(item, (Document, Skipped, Note)) for item in found)
    if not packing:
        require_accounted(found, len(content))


SAMPLES = {
    ".txt": b"The pump was stopped.\r\nIt is dry.\n",
    ".md": "# Größe\n\nThe pump was stopped.\n".encode("utf-16"),
    ".pdf": book(shown("The pump was stopped.", "It is dry."), SCAN, shown("Then it was started again.")),
    ".docx": docx("A title"),
    ".parquet": parquet({"text": ["one", "two"], "id": [1, 2]}),
    ".html": PAGE.encode(),
}
# Bytes in place of others, at a share of the file; what is cut off at its end.
DAMAGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=6)


@pytest.fixture(scope="module")
def process() -> Iterator[ReaderProcess]:
    with ReaderProcess(Limits(step_seconds=30)) as process:
        yield process


def require_items_of_damaged(
    folder: Path, process: ReaderProcess, suffix: str, damages: list[tuple[float, bytes]], kept: float
) -> None:
    content = bytearray(SAMPLES[suffix])
    for share, others in damages:
        at = int(share * len(content))
        content[at : at + len(others)] = others
    content = content[: round(kept * len(content))]
    path = folder / f"a{suffix}"
    path.write_bytes(content)
    found = list(process.read(path, path.name))
    assert found
    require_accounted(found, len(content))
    assert not [i for i in found if isinstance(i, Skipped) and "reader that" in i.reason]


@settings(max_examples=100, deadline=None)
@given(damages=DAMAGES, kept=st.one_of(st.just(1.0), st.floats(0, 1)))
@pytest.mark.parametrize("suffix", sorted(SAMPLES))
def test_damaged_files_are_documents_or_reasons(
    tmp_path_factory: pytest.TempPathFactory,
    process: ReaderProcess,
    suffix: str,
    damages: list[tuple[float, bytes]],
    kept: float,
) -> None:
    """Also from another process, which no file may end or confuse."""
    require_items_of_damaged(emptied_folder(tmp_path_factory), process, suffix, damages, kept)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(damages=DAMAGES, kept=st.one_of(st.just(1.0), st.floats(0, 1)))
@pytest.mark.parametrize("suffix", sorted(SAMPLES))
def test_ten_thousand_damaged_files_are_documents_or_reasons(
    tmp_path_factory: pytest.TempPathFactory,
    process: ReaderProcess,
    suffix: str,
    damages: list[tuple[float, bytes]],
    kept: float,
) -> None:
    require_items_of_damaged(tmp_path_factory.getbasetemp(), process, suffix, damages, kept)
