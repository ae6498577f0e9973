"""Files as streams of bytes, decompressed while they are read if their last suffix says so."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from cogen.data.document import bad_data
from cogen.data.formats.extra import needs

if TYPE_CHECKING:
    from typing_extensions import Buffer

CHUNK_BYTES = 1 << 16
PACKED_BYTES = 2048  # read at a time: one byte may unpack to 32 KiB


def _gzip(file: BinaryIO) -> BinaryIO:
    import gzip

    return cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))


def _zstandard(file: BinaryIO) -> BinaryIO:
    with needs("zstandard", ".zst"):
        import zstandard
    return io.BufferedReader(cast(io.RawIOBase, _Frames(file, zstandard.ZstdDecompressor().decompressobj)))


OPENERS: Mapping[str, Callable[[BinaryIO], BinaryIO]] = {".gz": _gzip, ".zst": _zstandard}


class _Frames(io.RawIOBase):
    """Zstandard frames end to end; the library's own stream would accept a truncated file as whole."""

    def __init__(self, file: BinaryIO, new_frame: Callable[[], Any]) -> None:
        self._file, self._new_frame = file, new_frame
        self._frame, self._begun, self._left = new_frame(), False, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        while not self._left:
            packed = (self._frame.unused_data if self._frame.eof else b"") or self._file.read(PACKED_BYTES)
            if not packed and self._begun and not self._frame.eof:
                raise EOFError("it ends in the middle")
            if not packed:
                return 0
            if self._frame.eof:
                self._frame = self._new_frame()
            self._begun, self._left = True, self._frame.decompress(packed)
        given, self._left = self._left[: len(view)], self._left[len(view) :]
        view[: len(given)] = given
        return len(given)


class Counted(io.RawIOBase):
    """A stream that counts the bytes that were read of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.num_read = file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        content = self._file.read(len(view))
        self.num_read += len(content)
        view[: len(content)] = content
        return len(content)


@contextmanager
def opened(path: Path, compression: str) -> Iterator[BinaryIO]:
    """Open `path` for reading.

    Raises:
        DataError: no permission, a disk error, or content that does not match the suffix.
    """
    try:
        with path.open("rb") as file:
            if not compression:
                yield file
            else:
                yield io.BufferedReader(Counted(OPENERS[compression](file)))
    except (EOFError, zlib.error) as error:
        raise _broken(path, compression, error) from None
    except OSError as error:
        if error.errno is None:  # gzip raises this for a file that is not gzip
            raise _broken(path, compression, error) from None
        raise bad_data(path, "a readable file", error.strerror or str(error), "Check its permissions.") from None
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise _broken(path, compression, error) from None
        raise


@contextmanager
def seekable(file: BinaryIO) -> Iterator[BinaryIO]:
    """`file` itself, or a temporary copy if it cannot seek."""
    if not isinstance(file, io.BufferedReader) or not file.seekable():
        with tempfile.TemporaryFile(prefix="cogen-") as copy:
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            yield cast(BinaryIO, copy)
    else:
        yield file


def num_bytes(file: BinaryIO) -> int:
    """Bytes of a file that can seek; bytes that were read so far of one that is being unpacked."""
    raw = getattr(file, "raw", None)
    if isinstance(raw, Counted):
        return raw.num_read
    return os.fstat(file.fileno()).st_size


def _broken(path: Path, compression: str, error: Exception) -> Exception:
    return bad_data(path, f"a whole {compression} file", str(error), "Pack it again.")
