"""Plain text and Markdown, where a file is a document; and decoding of bytes for all formats made of lines."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from cogen.data import document
from cogen.data.document import REST, Item, Note, SourceLocation, bad_data, too_long
from cogen.data.formats.compressed import CHUNK_BYTES
from cogen.errors import DataError

if TYPE_CHECKING:
    from typing_extensions import Buffer

UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CONTINUATIONS = bytes(range(0x80, 0xC0))
_FIRST_OF_FOUR = bytes(range(0xF0, 0xF8))


@dataclass(frozen=True)
class Line:
    """One line of a file.

    Args:
        number: from 1.
        text: with its line feed; or the error if it is too long or not UTF-8.
        num_bytes: in the file, in the file's own encoding, with a byte order mark.
    """

    number: int
    text: str | DataError
    num_bytes: int


def read_text(file: BinaryIO, place: SourceLocation) -> Iterator[Item]:
    """The whole file as one document."""
    content = as_utf8(file, place.path).read(document.MAX_DOCUMENT_BYTES + 1)
    if len(content) > document.MAX_DOCUMENT_BYTES:
        raise too_long(place.path)
    text = decoded(content.removeprefix(codecs.BOM_UTF8), place.path, content.startswith(codecs.BOM_UTF8) * 3)
    if "\0" in text:
        raise bad_data(place.path, "text", "zero bytes", "Give the file the suffix of its format, or remove it.")
    yield place.whole(universal_newlines(text)) or Note(place.path, "", REST)


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


def numbered_lines(file: BinaryIO, place: SourceLocation) -> Iterator[Line]:
    """Lines, split only at \\n; an error in place of a line that is too long or not UTF-8."""
    buffered = as_utf8(file, place.path)
    is_utf16 = isinstance(getattr(buffered, "raw", None), _Recoded)
    number, offset = 0, 0
    while content := buffered.readline(document.MAX_DOCUMENT_BYTES + 1):
        number, start, size = number + 1, offset, len(content)
        mark = len(codecs.BOM_UTF8) if number == 1 and content.startswith(codecs.BOM_UTF8) else 0
        num_bytes = 2 * (number == 1) + _utf16_bytes(content) if is_utf16 else size
        text: str | DataError
        if size <= document.MAX_DOCUMENT_BYTES:
            text = _decoded_line(content[mark:], place.line(number), start + mark)
        else:
            text = too_long(place.line(number))
            while not content.endswith(b"\n") and (content := buffered.readline(CHUNK_BYTES)):
                size += len(content)
                num_bytes += _utf16_bytes(content) if is_utf16 else len(content)
        offset += size
        yield Line(number, text, num_bytes)


def _utf16_bytes(content: bytes) -> int:
    """How many bytes UTF-8 `content` takes in UTF-16: two for each character, four for one of four bytes."""
    firsts = content.translate(None, _CONTINUATIONS)
    return 2 * (2 * len(firsts) - len(firsts.translate(None, _FIRST_OF_FOUR)))


def _decoded_line(content: bytes, where: str, offset: int) -> str | DataError:
    try:
        return decoded(content, where, offset)
    except DataError as error:
        return error


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
