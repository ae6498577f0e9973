"""Bounds for formats that are zip archives, checked before a library unpacks them.

The directory of an archive may say anything. So each entry is unpacked here once, without being kept, and must be what
the directory says; then whoever reads it later gets no more.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO

from cogen.data import document
from cogen.data.document import SourceLocation, bad_data, too_long
from cogen.data.formats.compressed import CHUNK_BYTES, FREE_BYTES, MAX_RATIO, MIB
from cogen.errors import DataError

MAX_ENTRIES = 10_000
MAX_ARCHIVE_BYTES = 512 * MIB  # of all entries, unpacked: pictures too, which libraries load with the text
XML_SUFFIXES = (".xml", ".rels")
LOCAL_HEADER = struct.Struct("<4s22xHH")  # its mark, the lengths of the name and of more
# Word never declares entities; with them a line of XML can stand for gigabytes. In UTF-8 and UTF-16.
DECLARATIONS = tuple("<!DOCTYPE".encode(encoding) for encoding in ("utf-8", "utf-16-le", "utf-16-be"))
FIX = "Save it again, or as .txt."


def require_small(file: BinaryIO, place: SourceLocation) -> None:
    """Check an archive before a library loads it: a few kilobytes may unpack to gigabytes.

    Raises:
        DataError: it is no archive, or larger than a document may be; it has too many entries, ones that share bytes,
            or are not what the directory says; or an XML part that declares entities.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _require_fair(entries, place)
            for entry in entries:
                _require_true(file, entry, place)
    except (zipfile.BadZipFile, struct.error, zlib.error, OSError, ValueError, NotImplementedError) as error:
        raise _bad(place, str(error)) from None
    file.seek(0)


def _bad(place: SourceLocation, got: str, expected: str = "a Word document") -> DataError:
    return bad_data(place.path, expected, got, FIX)


def _require_fair(entries: list[zipfile.ZipInfo], place: SourceLocation) -> None:
    """Check what the directory says."""
    if len(entries) > MAX_ENTRIES:
        raise _bad(place, f"{len(entries):,}", f"an archive of at most {MAX_ENTRIES:,} entries")
    if sum(entry.file_size for entry in entries if entry.filename.lower().endswith(XML_SUFFIXES)) > (
        document.MAX_DOCUMENT_BYTES
    ):
        raise too_long(place.path)
    size, packed = (sum(getattr(entry, key) for entry in entries) for key in ("file_size", "compress_size"))
    if size > MAX_ARCHIVE_BYTES:
        raise _bad(place, f"{size / MIB:,.0f}", f"at most {MAX_ARCHIVE_BYTES // MIB} MiB when unpacked")
    if size > FREE_BYTES and size > MAX_RATIO * packed:
        got = f"{size / MIB:,.0f} MiB from {packed / MIB:.2f} MiB"
        raise _bad(place, got, f"an archive that unpacks to at most {MAX_RATIO} times its size")
    in_order = sorted(entries, key=lambda entry: entry.header_offset)
    for first, second in pairwise(in_order):
        if first.header_offset + LOCAL_HEADER.size + first.compress_size > second.header_offset:
            raise _bad(place, f"{first.filename!r} and {second.filename!r} in the same bytes", "an archive of entries")


def _require_true(file: BinaryIO, entry: zipfile.ZipInfo, place: SourceLocation) -> None:
    """Unpack an entry once, in little memory: it must be as long as the directory says."""
    if entry.flag_bits & 1:
        raise _bad(place, "one with a password", "a Word document that opens")
    size, start = 0, b""
    for content in _unpacked(file, entry):
        size += len(content)
        start = start or content
        if size > entry.file_size:
            break
    if size != entry.file_size:
        raise _bad(place, f"a part {entry.filename!r} that is not as long as the archive says")
    if entry.filename.lower().endswith(XML_SUFFIXES) and any(mark in start for mark in DECLARATIONS):
        raise _bad(place, f"a part {entry.filename!r} that declares entities")


def _unpacked(file: BinaryIO, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    file.seek(entry.header_offset)
    mark, *lengths = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    if mark != b"PK\x03\x04" or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"{entry.filename!r} is packed in a way that Word does not use")
    file.seek(sum(lengths), 1)
    left = entry.compress_size
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS) if entry.compress_type == zipfile.ZIP_DEFLATED else None
    while left and (content := file.read(min(left, CHUNK_BYTES))):
        left -= len(content)
        while content:
            yield unpacker.decompress(content, CHUNK_BYTES) if unpacker else content
            content = unpacker.unconsumed_tail if unpacker else b""
    while unpacker and (content := unpacker.decompress(unpacker.unconsumed_tail, CHUNK_BYTES)):
        yield content
