"""Word documents: the text that a reader sees, once and in order; what is not read is named."""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from cogen.data import document
from cogen.data.document import Item, Note, SourceLocation, bad_data
from cogen.data.formats.compressed import seekable
from cogen.data.formats.extra import needs
from cogen.data.formats.html import page_text
from cogen.data.formats.layout import unread_names
from cogen.data.formats.word import Story
from cogen.data.formats.word_styles import Numbering, Styles, W, value
from cogen.data.formats.zipped import require_small
from cogen.errors import DataError

_DEFAULT_MAIN_PART = "word/document.xml"
_OLD_WORD = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)
_SAVE_AGAIN = "Save it again, or as .txt."


def read_docx(file: BinaryIO, place: SourceLocation) -> Iterator[Item]:
    """The text in order: a line for a paragraph or table row, tabs between cells, notes after their paragraph.

    Insertions are read, deletions and hidden text are not. Headers, footers, comments, pictures and charts are not
    read; a note names them.
    """
    with needs("lxml", ".docx"):
        import lxml.etree  # noqa: F401
    with seekable(file) as whole:
        _require_new(whole, place)
        require_small(whole, place)
        try:
            package = _Package(whole)
            text, unread, title = _read(package)
        except DataError:
            raise
        except (*_BROKEN, SyntaxError) as error:  # an XMLSyntaxError is a SyntaxError
            got = f"{type(error).__name__}: {error}"
            raise bad_data(place.path, "a Word document", got, _SAVE_AGAIN) from error
    names = unread_names(unread)
    found = place.whole(text, title)
    if found is None and names:
        raise bad_data(place.path, "text", names, "Write what they say as text, or remove the file.")
    if found is not None:
        if names:
            yield Note(place.path, f"not read: {names}")
        yield found


def _read(package: _Package, is_inserted: bool = False) -> tuple[str, Counter[str], str]:
    """Text, what was not read, and title."""
    root = package.xml(package.main)
    body = None if root is None else root.find(f"{W}body")
    if body is None:
        raise ValueError(f"no text body in {package.main}")
    styles = Styles(package.xml(package.related("styles")))
    story = Story(
        styles=styles,
        numbering=Numbering(package.xml(package.related("numbering")), styles),
        notes=_notes(package),
        inserted=lambda identity: None if is_inserted else _inserted(package, identity),
        bound=lambda properties: _bound(package, properties),
    )
    story.read(body)
    for name, kind in package.all_related("header", "footer"):
        words = "".join(f"{t} " for t in _texts(package.xml(name))).split()
        story.unread[f"word(s) in {kind}s"] += len(words)
    core = package.xml(package.related("core-properties", of=""))
    titles = [] if core is None else [t.text or "" for t in core.iter("{http://purl.org/dc/elements/1.1/}title")]
    return story.layout.text(), story.unread, "".join(titles[:1])


def _texts(root: Any) -> list[str]:
    return [] if root is None else [t.text or "" for t in root.iter(f"{W}t")]


def _notes(package: _Package) -> dict[tuple[str, str], Any]:
    """Footnotes and endnotes, without the lines that separate them from the text."""
    found = {}
    for kind in ("footnote", "endnote"):
        root = package.xml(package.related(f"{kind}s"))
        for note in () if root is None else root.findall(f"{W}{kind}"):
            if value(note, "type") in ("", "normal"):
                found[kind, value(note, "id")] = note
    return found


def _inserted(package: _Package, identity: str) -> str | None:
    """The text of an inserted file: of a web page, plain text or a Word document; None for others."""
    name = package.targets.get(identity, "")
    content = package.content(name)
    suffix = posixpath.splitext(name)[1].lower()
    if content is None:
        return None
    if suffix in (".htm", ".html", ".xhtml", ".txt"):
        return page_text(content) if suffix != ".txt" else content.decode("utf-8-sig", "replace")
    if suffix in (".docx", ".docm", ".dotx"):
        return _read(_Package(io.BytesIO(content)), is_inserted=True)[0]
    return None


def _bound(package: _Package, properties: Any) -> str:
    """The value of a form field that shows one from the file's data: Word shows this one, not the text it saved."""
    binding = properties.find(f"{W}dataBinding")
    if binding is None:
        return ""
    prefixes = dict(re.findall(r"""xmlns:(\w+)=["']([^"']*)["']""", value(binding, "prefixMappings")))
    for name in package.names("customXml/item"):
        root = package.xml(name)
        try:
            found = root.xpath(value(binding, "xpath"), namespaces=prefixes)
        except (SyntaxError, ValueError, TypeError):
            continue
        except Exception as error:  # XPathError has no base but LxmlError
            if type(error).__name__ not in ("XPathEvalError", "XPathSyntaxError"):
                raise
            continue
        values = found if isinstance(found, list) else [str(found)]
        texts = [v if isinstance(v, str) else "".join(v.itertext()) for v in values]
        if any(texts):
            return " ".join(" ".join(texts).split())
    return ""


class _Package:
    """The parts of an Open Packaging file, by their names; in the namespaces of ECMA-376's transitional form."""

    def __init__(self, file: BinaryIO) -> None:
        self._archive = zipfile.ZipFile(file)
        self._parts = {p.filename.replace("\\", "/").lstrip("/").lower(): p for p in self._archive.infolist()}
        self._relations: dict[str, list[tuple[str, str, str]]] = {}
        self.main = self.related("officeDocument", of="") or _DEFAULT_MAIN_PART
        self.targets: Mapping[str, str] = {i: target for i, _, target in self._related(self.main)}

    def names(self, start: str) -> list[str]:
        """The XML parts whose names begin so."""
        return [n for n in self._parts if n.startswith(start.lower()) and n.endswith(".xml")]

    def content(self, name: str) -> bytes | None:
        """A part's bytes; None if there is no such part."""
        part = self._parts.get(name.lower())
        if part is None:
            return None
        if part.file_size > document.MAX_DOCUMENT_BYTES:
            raise ValueError(f"{name} has more than {document.MAX_DOCUMENT_BYTES} bytes")
        return self._archive.read(part)

    def xml(self, name: str) -> Any:
        """A part's root; None if there is no such part. No entity is resolved, and nothing is fetched."""
        from lxml import etree

        content = self.content(name)
        if content is None:
            return None
        root = etree.fromstring(content, _parser())
        if root.getroottree().docinfo.doctype:
            raise ValueError(f"a document type in {name}")
        if any("purl.oclc.org/ooxml/" in uri for uri in root.nsmap.values()):
            moved = re.sub(rb"http://purl\.oclc\.org/ooxml/(\w+)/", _transitional, etree.tostring(root))
            root = etree.fromstring(moved, _parser())
        return root

    def related(self, kind: str, of: str | None = None) -> str:
        """The first part of a kind that the main part refers to, or the part `of`; empty if there is none."""
        return next((t for _, k, t in self._related(self.main if of is None else of) if k == kind), "")

    def all_related(self, *kinds: str) -> list[tuple[str, str]]:
        """Name and kind of the parts of these kinds that the main part refers to."""
        return sorted({(target, kind) for _, kind, target in self._related(self.main) if kind in kinds})

    def _related(self, part: str) -> list[tuple[str, str, str]]:
        """Id, kind and name of the parts that a part refers to; "" is the package."""
        if part not in self._relations:
            folder, name = posixpath.split(part)
            root = self.xml(posixpath.join(folder, "_rels", f"{name}.rels"))
            found = []
            for relation in () if root is None else root.iter("{*}Relationship"):
                if value(relation, "TargetMode") != "External":
                    target = posixpath.normpath(posixpath.join("/", folder, value(relation, "Target"))).lstrip("/")
                    found.append((value(relation, "Id"), value(relation, "Type").rpartition("/")[2], target))
            self._relations[part] = found
        return self._relations[part]


def _parser() -> Any:
    from lxml import etree

    return etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)


def _transitional(match: re.Match[bytes]) -> bytes:
    return b"http://schemas.openxmlformats.org/" + match[1] + b"/2006/"


def _require_new(file: BinaryIO, place: SourceLocation) -> None:
    """Raise DataError for the older form of Word, in which documents with a password are too."""
    old = file.read(len(_OLD_WORD)) == _OLD_WORD
    file.seek(0)
    if old:
        got = "one with a password, or in the form of Word 97 (.doc)"
        raise bad_data(place.path, "a Word document that opens", got, "Save it as .docx without a password.")
