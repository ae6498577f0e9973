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
MIB = 2**20
# Text packs to a tenth, seldom to a hundredth of its bytes. What unpacks to more than MAX_RATIO times its own, and to
# more than FREE_BYTES, was made to fill a memory or a disk.
MAX_RATIO = 200
FREE_BYTES = 64 * MIB
MAX_WINDOW_BYTES = 128 * MIB  # of memory that a Zstandard frame may ask for; as its own command allows
MAX_COPY_BYTES = 1024 * MIB  # of an unpacked file on the disk, for formats that are not read from front to back
MIN_FREE_DISK = 0.1  # of the disk's space; a copy may not take the last of it
UNPACK_IT = "If it is right, unpack it yourself."


def _gzip(file: BinaryIO) -> BinaryIO:
    import gzip

    return cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))


def _zstandard(file: BinaryIO) -> BinaryIO:
    with needs("zstandard", ".zst"):
        import zstandard
    unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    return io.BufferedReader(cast(io.RawIOBase, _Frames(file, unpacker.decompressobj)))


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
    """A packed file as it is unpacked: counts the bytes that were read of it, and ends one that grows too much.

    Args:
        packed: the file; its position says how much of it was unpacked so far.
    """

    def __init__(self, file: BinaryIO, packed: BinaryIO, path: Path) -> None:
        self._file, self._packed, self.path, self.num_read = file, packed, path, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        content = self._file.read(len(view))
        self.num_read += len(content)
        view[: len(content)] = content
        if self.num_read > FREE_BYTES and self.num_read > MAX_RATIO * (num_packed := self._packed.tell()):
            got = f"{self.num_read / MIB:,.0f} MiB from the first {num_packed / MIB:.2f} MiB"
            raise bad_data(self.path, f"a file that unpacks to at most {MAX_RATIO} times its size", got, UNPACK_IT)
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
                yield io.BufferedReader(Counted(OPENERS[compression](file), file, path))
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
            _copy(file, cast(BinaryIO, copy))
            copy.seek(0)
            yield cast(BinaryIO, copy)
    else:
        yield file


def _copy(file: BinaryIO, copy: BinaryIO) -> None:
    """Copy a packed file to the disk.

    Raises:
        DataError: it is larger than MAX_COPY_BYTES, or than the disk has room for.
    """
    raw = getattr(file, "raw", None)
    path = raw.path if isinstance(raw, Counted) else Path("a stream")
    disk = shutil.disk_usage(tempfile.gettempdir())
    room = disk.free - int(MIN_FREE_DISK * disk.total)
    size = 0
    while content := file.read(CHUNK_BYTES):
        size += len(content)
        if size > MAX_COPY_BYTES:
            raise bad_data(path, f"at most {MAX_COPY_BYTES // MIB:,} MiB when unpacked", "more", UNPACK_IT)
        if size > room:
            got = f"room for {max(0, room) // MIB:,} MiB in {tempfile.gettempdir()}"
            raise bad_data(path, "room on the disk to unpack it", got, "Set TMPDIR to a folder on a larger disk.")
        copy.write(content)


def num_bytes(file: BinaryIO) -> int:
    """Bytes of a file that can seek; bytes that were read so far of one that is being unpacked."""
    raw = getattr(file, "raw", None)
    if isinstance(raw, Counted):
        return raw.num_read
    return os.fstat(file.fileno()).st_size


def _broken(path: Path, compression: str, error: Exception) -> Exception:
    return bad_data(path, f"a whole {compression} file", str(error), "Pack it again.")
