"""A reader's process whose readers do what the file says: it takes the place of the real one in tests."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from typing import BinaryIO

from cogen.data import formats
from cogen.data.document import Document, Item, Note, Skipped, SourceLocation, bad_data
from cogen.data.formats.worker import main as run

MIB = 2**20


def read(file: BinaryIO, place: SourceLocation) -> Iterator[Item]:
    """Follow the file's orders, one a line; each line that is read is a document of its bytes."""
    held = []
    for number, line in enumerate(file, 1):
        order, _, argument = line.decode().strip().partition(" ")
        if order == "say":
            yield Document(f"{place.name}:{number}", "", argument, place.name, num_file_bytes=len(line))
        elif order == "work":
            time.sleep(float(argument))
            yield Note(place.path, "", 0)
        elif order == "loop":
            while True:
                pass
        elif order == "sleep":
            time.sleep(3600)
        elif order == "abort":
            os.abort()
        elif order == "segfault":
            ctypes.string_at(0)
        elif order == "exit":
            os._exit(3)
        elif order == "fill":
            held += [bytearray(MIB) for _ in range(int(argument))]
        elif order == "hide":  # as libraries do
            try:
                held += [bytearray(MIB) for _ in range(int(argument))]
            except Exception as error:
                raise bad_data(place.path, "a fine file", f"{type(error).__name__}", "Mend it.") from None
        elif order == "raise":
            raise RecursionError(argument)
        elif order == "print":
            print(argument, flush=True)
            os.write(1, argument.encode())
        elif order == "bad":
            yield Skipped.of(bad_data(place.line(number), "a fine line", argument, "Mend it."), len(line))
        elif order == "pid":
            yield Document(place.name, "", str(os.getpid()), place.name)


def main() -> None:
    """Run the real process with these readers."""
    formats.READERS = dict.fromkeys(formats.READERS, read)
    run()
