"""Parquet: each row is a document; only a few rows are in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from cogen.data import document
from cogen.data.document import REST, Item, Note, Skipped, SourceLocation, bad_data, document_of, too_long
from cogen.data.formats.columns import choose_columns, listed, plain_name
from cogen.data.formats.compressed import num_bytes, seekable
from cogen.data.formats.extra import needs

BATCH_ROWS = 16  # of up to MAX_DOCUMENT_BYTES each, as Arrow holds them


def read_parquet(file: BinaryIO, place: SourceLocation) -> Iterator[Item]:
    """One document for each row, from the columns `text`, `id`, `title` and `source`.

    Text is a column of strings, or of bytes in UTF-8 as older writers make them, also as a dictionary.
    """
    with needs("pyarrow", ".parquet"):
        import pyarrow as arrow
        from pyarrow import parquet
    with seekable(file) as whole:
        size = num_bytes(whole)
        try:
            table = parquet.ParquetFile(whole)
            columns = _columns(table.schema_arrow, place.path)
            yield from _notes(table, columns, place.path)
            names = list(dict.fromkeys(table.schema_arrow.names[i] for i in columns.values()))
            number, num_rows = 0, table.metadata.num_rows
            for batch in table.iter_batches(BATCH_ROWS, columns=names):
                fields = {f: batch.column(table.schema_arrow.names[i]) for f, i in columns.items()}
                for row in range(batch.num_rows):
                    number += 1
                    share = size * number // num_rows - size * (number - 1) // num_rows if number <= num_rows else 0
                    yield _item(fields, row, f"{place.path}, row {number}", place.file_name, share)
            if number < num_rows:
                raise bad_data(place.path, f"{num_rows} rows", f"{number}", "Write it again.")
        except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
            got = " ".join(str(error).split())[:200]
            raise bad_data(place.path, "a whole parquet file", got, "Write it again, without encryption.") from None


def _columns(schema: Any, path: str) -> dict[str, int]:
    """The column of each field, by what the columns are called and hold."""
    kinds = [_kind(column.type) for column in schema]
    candidates = [i for i, kind in enumerate(kinds) if kind == "string"]
    candidates = candidates or [i for i, kind in enumerate(kinds) if kind == "binary"]
    expected = "a column `text` of strings"
    got = listed(f"{column.name!r} of {_type_name(column.type)}" for column in schema) or "no columns"
    fix = "Write the text as strings, in a column `text`."
    if not candidates and not any(plain_name(name) == "text" for name in schema.names):
        raise bad_data(path, expected, got if not schema.names else f"columns {got}", fix)
    columns = choose_columns(schema.names, candidates, path)
    text = columns["text"]
    if not kinds[text]:
        got = f"`{schema.names[text]}` of {_type_name(schema.field(text).type)}; columns: {got}"
        raise bad_data(path, expected, got, fix)
    return {field: i for field, i in columns.items() if schema.names.count(schema.names[i]) == 1}


def _kind(kind: Any) -> str:
    """`string` or `binary` for a type that may hold text, or a dictionary of that; else empty."""
    from pyarrow import types

    while types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "string"
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return "binary" if is_bytes or types.is_fixed_size_binary(kind) else ""


def _type_name(kind: Any) -> str:
    """A type as Arrow writes it, without the names inside a list; cropped."""
    name = " ".join(str(kind).replace("<element: ", "<").replace("<item: ", "<").split())
    return name if len(name) <= 80 else name[:77] + "..."


def _notes(table: Any, columns: dict[str, int], path: str) -> Iterator[Note]:
    """Which columns are the fields, where that is not plain, and which are not read, with the share of their bytes."""
    schema = table.schema_arrow
    if any(schema.names[i] != field for field, i in columns.items()):
        yield Note(path, "columns: " + ", ".join(f"{field} = {schema.names[i]!r}" for field, i in columns.items()))
    unread = [i for i in range(len(schema.names)) if i not in columns.values()]
    if unread:
        sizes = _sizes(table.metadata)
        total = max(1, sum(sizes.values()))
        shown = [
            f"{schema.names[i]!r} ({_type_name(schema.field(i).type)}, {sizes.get(schema.names[i], 0) / total:.0%} of "
            "the bytes)"
            for i in unread
        ]
        yield Note(path, "columns not read: " + listed(shown))
    if not table.metadata.num_rows:
        yield Note(path, "no rows", REST)


def _sizes(metadata: Any) -> dict[str, int]:
    """Bytes of each column, unpacked."""
    sizes: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        chunks = metadata.row_group(group)
        for i in range(chunks.num_columns):
            chunk = chunks.column(i)
            name = chunk.path_in_schema.split(".")[0]
            sizes[name] = sizes.get(name, 0) + max(0, chunk.total_uncompressed_size)
    return sizes


def _item(columns: dict[str, Sequence[Any]], row: int, where: str, file_name: str, num_bytes: int) -> Item:
    """Convert one row to Python; a text that is too long is refused before, since Arrow knows its size."""
    buffer = _buffer(columns["text"][row])
    if buffer is None or not buffer.size:
        got = "nothing" if buffer is None else "an empty string"
        return Skipped.of(bad_data(where, "a text", got, "Fill it, or remove the row."), num_bytes)
    if buffer.size > document.MAX_DOCUMENT_BYTES:
        return Skipped.of(too_long(where), num_bytes)
    values = {field: _value(column[row]) for field, column in columns.items() if field != "text"}
    try:
        values["text"] = buffer.to_pybytes().decode()
    except UnicodeDecodeError as error:
        got = f"bytes that are not, from {error.start} on"
        return Skipped.of(bad_data(where, "UTF-8", got, "Convert it to UTF-8."), num_bytes)
    return document_of(values, where, file_name, num_bytes)


def _buffer(scalar: Any) -> Any:
    """The bytes of a string, as Arrow holds them; None for anything else, and for nothing."""
    while hasattr(scalar, "dictionary") and scalar.is_valid:
        scalar = scalar.value
    return scalar.as_buffer() if scalar.is_valid and hasattr(scalar, "as_buffer") else None


def _value(scalar: Any) -> Any:
    """An id, title or source; None for one that Python has no value for, such as a time in nanoseconds."""
    buffer = _buffer(scalar)
    if buffer is not None:
        return buffer.to_pybytes().decode(errors="backslashreplace")
    try:
        return scalar.as_py()
    except (ValueError, ArithmeticError, LookupError, ImportError):
        return None
