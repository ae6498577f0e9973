"""A file or folder of .txt, .md and .jsonl becomes documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogen.errors import DataError

TEXT_SUFFIXES = (".txt", ".md")
SUFFIXES = (*TEXT_SUFFIXES, ".jsonl")


@dataclass(frozen=True)
class Document:
    """The unit of splitting, deduplication and privacy."""

    id: str
    title: str
    text: str
    source: str


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order, and the files that were left out with the reason."""

    documents: tuple[Document, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.documents)

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)

    def sha256(self) -> str:
        """Over ids and texts, in order."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(json.dumps([document.id, document.text]).encode())
        return digest.hexdigest()


def read_corpus(path: str | Path) -> Corpus:
    """Read all documents of a file or, recursively and by sorted name, of a folder.

    A .txt or .md file is one document, its id the path inside the folder. A .jsonl line is an object
    with `text`, and `id`, `title`, `source` where known; without an id, the text's hash is one.

    Raises:
        DataError: no such path, no documents, not UTF-8, a line without text, two documents of one id.

    >>> corpus = read_corpus("seeds/clinical.jsonl")  # doctest: +SKIP
    >>> len(corpus)                                   # doctest: +SKIP
    32
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise DataError(
            "cannot read data", expected="a file or folder", got="no such path", where=str(root), fix="Check the path."
        )
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file() and not _hidden(p, root))
    documents: list[Document] = []
    left_out: list[tuple[str, str]] = []
    for file in files:
        if file.suffix.lower() in SUFFIXES:
            found = _read_file(file, root)
            documents += found
            left_out += [] if found else [(str(file), "it is empty")]
        else:
            left_out.append((str(file), f"{file.suffix or 'no suffix'} is not one of {', '.join(SUFFIXES)}"))
    if not documents:
        got = f"{len(left_out)} files that are empty or of other kinds" if left_out else "none"
        raise DataError(
            "cannot read data",
            expected=f"documents in {', '.join(SUFFIXES)}",
            got=got,
            where=str(root),
            fix="Put text files there or name another path.",
        )
    _refuse_doubles(documents, root)
    return Corpus(tuple(documents), tuple(left_out))


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _read_file(file: Path, root: Path) -> list[Document]:
    try:
        text = file.read_text("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _bad_file(file, "UTF-8", f"byte {error.start} that is not", "Convert it to UTF-8.") from None
    except OSError as error:
        raise _bad_file(file, "a readable file", error.strerror or str(error), "Check its permissions.") from None
    if file.suffix.lower() == ".jsonl":
        lines = text.split("\n")
        return [_parse_line(line, file, n) for n, line in enumerate(lines, start=1) if line.strip()]
    if not text.strip():
        return []
    name = file.name if file == root else file.relative_to(root).as_posix()
    return [Document(id=name, title=file.stem, text=text, source=name)]


def _parse_line(line: str, file: Path, number: int) -> Document:
    where = f"{file}, line {number}"
    try:
        values: Any = json.loads(line)
    except ValueError as error:
        raise _bad_file(where, "one JSON object a line", str(error), "Mend or remove the line.") from None
    text = values.get("text") if isinstance(values, dict) else None
    if not isinstance(text, str) or not text.strip():
        got = f"keys {sorted(values)}" if isinstance(values, dict) else type(values).__name__
        raise _bad_file(where, "an object with a non-empty string `text`", got, "Mend or remove the line.")
    given = "" if values.get("id") is None else str(values["id"])
    try:
        made = hashlib.sha256((given + text).encode()).hexdigest()[:16]
    except UnicodeEncodeError:
        raise _bad_file(where, "whole characters", "half a surrogate pair", "Mend or remove the line.") from None
    return Document(
        id=given or made,
        title=str(values.get("title") or ""),
        text=text,
        source=str(values.get("source") or file.name),
    )


def _refuse_doubles(documents: list[Document], root: Path) -> None:
    seen: set[str] = set()
    for document in documents:
        if document.id in seen:
            raise _bad_file(root, "one document an id", f"two with id {document.id!r}", "Rename or remove one.")
        seen.add(document.id)


def _bad_file(where: Path | str, expected: str, got: str, fix: str) -> DataError:
    return DataError("cannot read data", expected=expected, got=got, where=str(where), fix=fix)
