"""PDFs written by hand, object by object, so that a test knows what a reader sees on each page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

HELVETICA = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
SCAN = b"q 500 0 0 700 50 50 cm /Im Do Q"
WIDTH, HEIGHT = 595, 842


def stream(content: bytes, keys: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n" % (len(content), keys) + content + b"\nendstream"


IMAGE = stream(
    bytes(64), b"/Type /XObject /Subtype /Image /Width 8 /Height 8 /ColorSpace /DeviceGray /BitsPerComponent 8"
)


def shown(*lines: str, font: str = "F", start: str = "50 780") -> bytes:
    """Lines of text."""
    escaped = (line.translate({40: "\\(", 41: "\\)", 92: "\\\\"}).encode("cp1252") for line in lines)
    return (
        b"BT /%s 11 Tf %s Td 14 TL " % (font.encode(), start.encode())
        + b" ".join(b"(%s) Tj T*" % line for line in escaped)
        + b" ET"
    )


@dataclass
class Pdf:
    """The objects of a file; object 1 is the catalog, 2 the page tree."""

    objects: list[bytes] = field(default_factory=lambda: [b"", b""])
    pages: list[int] = field(default_factory=list)
    catalog: bytes = b""
    trailer: bytes = b""

    def add(self, content: bytes) -> int:
        """The number of the object that `content` becomes."""
        self.objects.append(content)
        return len(self.objects)

    def page(
        self,
        content: bytes,
        fonts: Mapping[str, int] | None = None,
        drawn: Mapping[str, int] | None = None,
        keys: bytes = b"",
        resources: bytes = b"",
    ) -> None:
        """Add a page with its content stream, its fonts and pictures by name, and more keys of its dictionary."""
        if not fonts:
            fonts = {"F": self.add(HELVETICA)}
        if drawn is None:
            drawn = {"Im": self.add(IMAGE)}
        names = {b"/Font": fonts, b"/XObject": drawn}
        made = b" ".join(
            kind + b" << " + b" ".join(b"/%s %d 0 R" % (name.encode(), n) for name, n in given.items()) + b" >>"
            for kind, given in names.items()
        )
        contents = self.add(stream(content))
        box = b"/MediaBox [0 0 %d %d]" % (WIDTH, HEIGHT)
        page = b"<< /Type /Page /Parent 2 0 R %s /Contents %d 0 R /Resources << %s %s >> %s >>"
        self.pages.append(self.add(page % (box, contents, made, resources, keys)))

    def bytes(self) -> bytes:
        """The file."""
        kids = b" ".join(b"%d 0 R" % n for n in self.pages)
        self.objects[0] = b"<< /Type /Catalog /Pages 2 0 R %s >>" % self.catalog
        if not self.objects[1]:
            self.objects[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(self.pages), kids)
        out, offsets = b"%PDF-1.5\n%\xe2\xe3\xcf\xd3\n", []
        for number, content in enumerate(self.objects, 1):
            offsets.append(len(out))
            out += b"%d 0 obj\n" % number + content + b"\nendobj\n"
        size = len(self.objects) + 1
        table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
        end = b"trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (size, self.trailer, len(out))
        return out + b"xref\n0 %d\n0000000000 65535 f \n" % size + table + end


def book(*contents: bytes) -> bytes:
    """A file of these pages, with a font F and a picture Im."""
    made = Pdf()
    for content in contents:
        made.page(content)
    return made.bytes()


def cid_font(made: Pdf, name: str, encoding: str, ordering: str, to_unicode: bytes = b"") -> int:
    """A composite font, as word processors embed them."""
    descriptor = made.add(
        b"<< /Type /FontDescriptor /FontName /%s /Flags 4 /FontBBox [0 0 1000 1000] /ItalicAngle 0 /Ascent 800"
        b" /Descent -200 /CapHeight 700 /StemV 80 >>" % name.encode()
    )
    system = b"<< /Registry (Adobe) /Ordering (%s) /Supplement 0 >>" % ordering.encode()
    below = made.add(
        b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /%s /CIDSystemInfo %s /FontDescriptor %d 0 R /DW 500 >>"
        % (name.encode(), system, descriptor)
    )
    more = b"/ToUnicode %d 0 R" % made.add(stream(to_unicode)) if to_unicode else b""
    return made.add(
        b"<< /Type /Font /Subtype /Type0 /BaseFont /%s /Encoding /%s /DescendantFonts [%d 0 R] %s >>"
        % (name.encode(), encoding.encode(), below, more)
    )


def to_unicode(pairs: Sequence[tuple[int, str]]) -> bytes:
    """A character map: from codes of two bytes to characters."""
    lines = [f"<{code:04x}> <{text.encode('utf-16-be').hex()}>" for code, text in pairs]
    blocks = [lines[at : at + 100] for at in range(0, len(lines), 100)]
    body = "\n".join(f"{len(block)} beginbfchar\n" + "\n".join(block) + "\nendbfchar" for block in blocks)
    return (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /X def\n"
        f"1 begincodespacerange\n<0000> <ffff>\nendcodespacerange\n{body}\nendcmap end end"
    ).encode()


def codes(values: Sequence[int], font: str = "F") -> bytes:
    """Glyphs by codes of two bytes."""
    return b"BT /%s 11 Tf 50 780 Td <" % font.encode() + b"".join(b"%04x" % v for v in values) + b"> Tj ET"
