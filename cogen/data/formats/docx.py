"""Word documents: paragraphs and tables in their order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from cogen.data.document import Item, SourceLocation, bad_data
from cogen.data.formats.compressed import seekable
from cogen.data.formats.extra import needs
from cogen.data.formats.zipped import require_small


def read_docx(file: BinaryIO, place: SourceLocation) -> Iterator[Item]:
    """Paragraphs and table rows, a line each, with tabs between cells; headers, footers and notes are not read."""
    with needs("python-docx", ".docx"):
        import docx
        from docx.table import Table
    with seekable(file) as whole:
        require_small(whole, place)
        try:
            opened = docx.Document(whole)
            parts = []
            for part in opened.iter_inner_content():
                rows = [[c.text for c in row.cells] for row in part.rows] if isinstance(part, Table) else [[part.text]]
                parts += ["\t".join(cells) for cells in rows]
            title = opened.core_properties.title
        except Exception as error:  # the library raises any error for a bad file
            got = f"{type(error).__name__}: {error}"
            raise bad_data(place.path, "a Word document", got, "Save it again, or as .txt.") from error
    if found := place.whole("\n".join(parts), title):
        yield found
