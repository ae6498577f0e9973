"""Parquet: each row is a document; only a few rows are in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from cogen.data import document
from cogen.data.document import Item, Skipped, SourceLocation, bad_data, document_of, too_long
from cogen.data.formats.compressed import num_bytes, seekable
from cogen.data.formats.extra import needs
from cogen.data.formats.table import text_column

BATCH_ROWS = 16  # of up to MAX_DOCUMENT_BYTES each, as Arrow holds them


def read_parquet(file: BinaryIO, place: SourceLocation) -> Iterator[Item]:
    """One document for each row, from the columns `text`, `id`, `title` and `source`."""
    with needs("pyarrow", ".parquet"):
        import pyarrow as arrow
        from pyarrow import parquet
    with seekable(file) as whole:
        size = num_bytes(whole)
        try:
            table = parquet.ParquetFile(whole)
            schema = table.schema_arrow
            strings = [f.name for f in schema if arrow.types.is_string(f.type) or arrow.types.is_large_string(f.type)]
            fields = text_column(schema.names, strings, place.path)
            number, num_rows = 0, table.metadata.num_rows
            for batch in table.iter_batches(BATCH_ROWS, columns=list(fields.values())):
                columns = {field: batch.column(batch.schema.names.index(name)) for field, name in fields.items()}
                for row in range(batch.num_rows):
                    number += 1
                    share = size * number // num_rows - size * (number - 1) // num_rows
                    yield _item(columns, row, f"{place.path}, row {number}", place.file_name, share)
        except (arrow.ArrowException, OSError) as error:
            raise bad_data(place.path, "a whole parquet file", str(error), "Write it again.") from None


def _item(columns: dict[str, Any], row: int, where: str, file_name: str, num_bytes: int) -> Item:
    """Convert one row to Python; a text that is too long is refused before, since Arrow knows its size."""
    text = columns["text"][row]
    buffer = text.as_buffer() if hasattr(text, "as_buffer") else None
    if buffer is not None and buffer.size > document.MAX_DOCUMENT_BYTES:
        return Skipped.of(too_long(where), num_bytes)
    values = {field: column[row].as_py() for field, column in columns.items()}
    return document_of(values, where, file_name, num_bytes)
