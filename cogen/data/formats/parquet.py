"""Parquet: a row is a document; batches of rows are in memory, never the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from cogen.data.document import Document, Place, bad_data, document_of
from cogen.data.formats.compressed import seekable
from cogen.data.formats.extra import needs
from cogen.data.formats.table import text_column
from cogen.errors import DataError

BATCH_ROWS = 256


def read_parquet(file: BinaryIO, place: Place) -> Iterator[Document | DataError]:
    """A document a row, by the columns `text`, `id`, `title` and `source`."""
    with needs("pyarrow", ".parquet"):
        import pyarrow as arrow
        from pyarrow import parquet
    with seekable(file) as whole:
        try:
            table = parquet.ParquetFile(whole)
            schema = table.schema_arrow
            strings = [f.name for f in schema if arrow.types.is_string(f.type) or arrow.types.is_large_string(f.type)]
            fields = text_column(schema.names, strings, place.path)
            number = 0
            for batch in table.iter_batches(BATCH_ROWS, columns=list(fields.values())):
                for row in batch.to_pylist():
                    number += 1
                    values = {field: row[name] for field, name in fields.items()}
                    yield document_of(values, f"{place.path}, row {number}", place.file_name)
        except (arrow.ArrowException, OSError) as error:
            raise bad_data(place.path, "a whole parquet file", str(error), "Write it again.") from None
