"""Plain text and Markdown, where a file is a document; and decoding of bytes for all formats made of lines."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

from cogen.data import document
from cogen.data.document import Document, SourceLocation, bad_data, too_long
from cogen.errors import DataError

if TYPE_CHECKING:
    from typing_extensions import Buffer

UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
CHUNK_BYTES = 1 << 16


def read_text(file: BinaryIO, place: SourceLocation) -> Iterator[Document | DataError]:
    """The whole file as one document."""
    content = as_utf8(file, place.path).read(document.MAX_DOCUMENT_BYTES + 1)
    if len(content) > document.MAX_DOCUMENT_BYTES:
        raise too_long(place.path)
    text = decoded(content.removeprefix(codecs.BOM_UTF8), place.path, content.startswith(codecs.BOM_UTF8) * 3)
    if "\0" in text:
        raise bad_data(place.path, "text", "zero bytes", "Give the file the suffix of its format, or remove it.")
    if found := place.whole(universal_newlines(text)):
        yield found


def universal_newlines(text: str) -> str:
    """All line ends as \\n."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def as_utf8(file: BinaryIO, path: str) -> BinaryIO:
    """`file` in UTF-8; a file that begins with the mark of UTF-16 is converted while it is read."""
    buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, file))
    if buffered.peek(2)[:2] in UTF16_MARKS:
        return io.BufferedReader(cast(io.RawIOBase, _Recoded(buffered, path)))
    return buffered


def decoded(content: bytes, where: str, offset: int = 0) -> str:
    """UTF-8 as text.

    Args:
        offset: position of `content` in its file, for the error.
    Raises:
        DataError: it is not UTF-8.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        got = f"byte {offset + error.start} that is not"
        raise bad_data(where, "UTF-8", got, "Convert it to UTF-8.") from None


def numbered_lines(file: BinaryIO, place: SourceLocation) -> Iterator[tuple[int, str | DataError]]:
    """Lines, split only at \\n, with numbers from 1; an error in place of a line that is too long or not UTF-8."""
    file = as_utf8(file, place.path)
    number, offset = 0, 0
    while line := file.readline(document.MAX_DOCUMENT_BYTES + 1):
        number, start, offset = number + 1, offset, offset + len(line)
        if len(line) > document.MAX_DOCUMENT_BYTES:
            yield number, too_long(place.line(number))
            while not line.endswith(b"\n") and (line := file.readline(CHUNK_BYTES)):
                offset += len(line)
            continue
        mark = number == 1 and line.startswith(codecs.BOM_UTF8)
        try:
            yield number, decoded(line[3:], place.line(1), 3) if mark else decoded(line, place.line(number), start)
        except DataError as error:
            yield number, error


class _Recoded(io.RawIOBase):
    """UTF-16 with its mark, converted to UTF-8."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file, self._path, self._left = file, path, b""
        self._decoder = codecs.getincrementaldecoder("utf-16")()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        while not self._left:
            chunk = self._file.read(CHUNK_BYTES)
            try:
                self._left = self._decoder.decode(chunk, final=not chunk).encode()
            except UnicodeError as error:
                raise bad_data(self._path, "UTF-16, as its mark says", str(error), "Convert it to UTF-8.") from None
            if not chunk:
                break
        given, self._left = self._left[: len(view)], self._left[len(view) :]
        view[: len(given)] = given
        return len(given)
