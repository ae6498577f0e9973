"""What a reader of a PDF sees is read, or named as what cannot be. Each file is written by hand (tests/pdfs.py).

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pytest

from cogen.data import Document
from cogen.data.document import Item, Note, Skipped
from cogen.data.formats import bytes_of, read_file
from tests.pdfs import HEIGHT, HELVETICA, IMAGE, SCAN, WIDTH, Pdf, book, cid_font, codes, shown, stream, to_unicode

L = [
    "The pump of the second line was stopped for a day.",
    "Its seal was found to be dry and was replaced.",
    "Then the line was started again by the night shift.",
]
"""Three lines of an ordinary page."""


PAGE = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R /Resources << /Font << /F 3 0 R >> >> >>"


class Read:
    """What reading a file gave; its bytes add up."""

    def __init__(self, folder: Path, content: bytes) -> None:
        path = folder / "a.pdf"
        path.write_bytes(content)
        items: list[Item] = list(read_file(path, "a.pdf"))
        assert sum(map(bytes_of, items)) == len(content) and all(bytes_of(item) >= 0 for item in items)
        self.documents = [item for item in items if isinstance(item, Document)]
        self.skipped = {i.file.removeprefix(str(path)).lstrip(", "): i for i in items if isinstance(i, Skipped)}
        self.notes = [item.text for item in items if isinstance(item, Note) and item.text]
        self.reasons = {where: item.reason for where, item in self.skipped.items()}

    @property
    def pages(self) -> list[list[str]]:
        (found,) = self.documents
        return [page.strip("\n").split("\n") for page in found.text.split("\f")]


def test_scanned_pages_are_counted_and_named(tmp_path: Path) -> None:
    """Red: pages without text passed over; a page more or less in a range; a share that is not a page's."""
    found = Read(tmp_path, content := book(shown(*L), *[SCAN] * 9, shown(*L), SCAN, shown(*L)))
    assert found.pages == [L, L, L]
    assert found.reasons == {"pages 2-10, 12": "expected text, got 10 of 13 pages without text: they look scanned"}
    (skipped,) = found.skipped.values()
    assert skipped.is_loss and abs(skipped.num_bytes - len(content) * 10 / 13) < 10
    assert "Run text recognition" in str(skipped.error)


def test_a_file_of_scans_alone_has_a_reason_for_all_its_bytes(tmp_path: Path) -> None:
    found = Read(tmp_path, content := book(SCAN, SCAN, SCAN))
    assert not found.documents and found.skipped["pages 1-3"].num_bytes == len(content)
    assert found.reasons == {"pages 1-3": "expected text, got 3 of 3 pages without text: they look scanned"}


def test_scans_and_blank_pages_alone(tmp_path: Path) -> None:
    """All bytes have a reason, though there is no document. Red: those of blank pages forgotten."""
    found = Read(tmp_path, book(SCAN, b"", SCAN))
    assert found.reasons == {"pages 1, 3": "expected text, got 2 of 3 pages without text: they look scanned"}


STRIPS = b" ".join(b"q 595 0 0 100 0 %d cm /Im Do Q" % (100 * n) for n in range(8))
INLINE = b"q 500 0 0 700 50 50 cm BI /W 2 /H 2 /BPC 8 /CS /G ID abcd EI Q"
TURNED = b"q 0 700 -500 0 550 50 cm /Im Do Q"
STAMP = b" BT /F 8 Tf 50 20 Td (Page 3 of 9) Tj ET"
LOGO = b"q 60 0 0 60 500 750 cm /Im Do Q "
FRAME = b"50 50 m 50 700 l 500 700 l 500 50 l s 50 400 m 500 400 l S"
OUTLINES = b" ".join(b"%d 50 m %d 60 l 55 %d l f" % (n, n + 3, n) for n in range(60))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (SCAN, "scanned"),
        (STRIPS, "scanned"),
        (INLINE, "scanned"),
        (TURNED, "scanned"),
        (SCAN + STAMP, "scanned"),
        (LOGO, "scanned"),  # alone on its page
        (OUTLINES, "shapes"),
        (FRAME, ""),
        (b"", ""),
        (LOGO + STAMP, ""),
        (SCAN + shown(*L), ""),
        (b"BT 3 Tr ET " + SCAN + b" 3 Tr " + shown(*L), ""),
    ],
    ids=["scan", "strips", "inline", "turned", "stamp", "logo", "shapes", "frame", "blank", "few words", "map", "ocr"],
)
def test_pages_without_text_are_told_from_blank_ones(tmp_path: Path, content: bytes, kind: str) -> None:
    """Red: any page without text; pictures counted one by one; a matrix that turns the page not followed."""
    found = Read(tmp_path, book(shown(*L), content))
    assert found.pages[0] == L
    assert [kind in reason for reason in found.reasons.values()] == [True] * bool(kind)
    if b"Tj" in content:  # what little there is is kept
        assert found.pages[1] in (L, ["Page 3 of 9"])


@pytest.mark.parametrize("scale", [1, 600])
def test_a_scan_inside_a_form_is_seen(tmp_path: Path, scale: int) -> None:
    """As scanners' programs wrap them. Red: the form's own matrix alone."""
    made = Pdf()
    made.page(shown(*L))
    image = made.add(IMAGE)
    inner = stream(
        b"%f 0 0 %f 0 0 cm /Im Do" % (WIDTH / scale, HEIGHT / scale),
        b"/Type /XObject /Subtype /Form /BBox [0 0 600 900] /Resources << /XObject << /Im %d 0 R >> >>" % image,
    )
    made.page(b"q %d 0 0 %d 0 0 cm /Fm Do Q" % (scale, scale), drawn={"Fm": made.add(inner)})
    assert list(Read(tmp_path, made.bytes()).reasons) == ["page 2"]


def test_text_in_a_form_is_read(tmp_path: Path) -> None:
    made = Pdf()
    font = made.add(HELVETICA)
    inner = stream(
        shown(*L), b"/Type /XObject /Subtype /Form /BBox [0 0 600 900] /Resources << /Font << /F %d 0 R >> >>" % font
    )
    made.page(b"/Fm Do", drawn={"Fm": made.add(inner)})
    found = Read(tmp_path, made.bytes())
    assert found.pages == [L] and not found.reasons


def test_a_page_of_shapes_that_names_no_fonts(tmp_path: Path) -> None:
    made = Pdf()
    made.page(shown(*L))
    for content in (OUTLINES, INLINE, b""):
        drawing = made.add(stream(content))
        made.pages.append(
            made.add(
                b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << >> /Contents %d 0 R >>" % drawing
            )
        )
    assert list(Read(tmp_path, made.bytes()).reasons) == ["page 2", "page 3"]


GLYPHS = [ord(c) - 29 for c in "The pump of the second line was stopped."]  # as subsets number them


def font_identity(made: Pdf) -> int:
    return cid_font(made, "ABCDEF+Calibri", "Identity-H", "Identity")


def font_japan(made: Pdf) -> int:
    return cid_font(made, "ABCDEF+Calibri", "Identity-V", "Japan1")


def font_private(made: Pdf) -> int:
    return cid_font(
        made, "ABCDEF+Calibri", "Identity-H", "Identity", to_unicode([(g, chr(0xE000 + g)) for g in GLYPHS])
    )


def font_lost(made: Pdf) -> int:
    return cid_font(made, "ABCDEF+Calibri", "Identity-H", "Identity", to_unicode([(g, "\ufffd") for g in GLYPHS]))


def font_differences(made: Pdf, name: bytes = b"g") -> int:
    names = b" ".join(b"/%s%d" % (name, n) for n in range(32, 127))
    return made.add(
        b"<< /Type /Font /Subtype /Type1 /BaseFont /ABCDEF+Calibri /FirstChar 32 /LastChar 126"
        b" /Encoding << /Type /Encoding /Differences [32 %s] >> >>" % names
    )


def font_drawn(made: Pdf) -> int:
    proc = made.add(stream(b"500 0 0 0 500 700 d1 0 0 500 700 re f"))
    names = b" ".join(b"/a%d" % n for n in range(32, 127))
    procs = b" ".join(b"/a%d %d 0 R" % (n, proc) for n in range(32, 127))
    return made.add(
        b"<< /Type /Font /Subtype /Type3 /Name /ABCDEF+Calibri /FontBBox [0 0 500 700] /FontMatrix [0.001 0 0 0.001 0 0]"
        b" /FirstChar 32 /LastChar 126 /Widths [%s] /CharProcs << %s >>"
        b" /Encoding << /Type /Encoding /Differences [32 %s] >> >>" % (b"500 " * 95, procs, names)
    )


def font_symbolic(made: Pdf) -> int:
    descriptor = made.add(b"<< /Type /FontDescriptor /FontName /ABCDEF+Calibri /Flags 4 /FontBBox [0 0 9 9] >>")
    return made.add(
        b"<< /Type /Font /Subtype /TrueType /BaseFont /ABCDEF+Calibri /FirstChar 33 /LastChar 126 /FontDescriptor %d 0 R >>"
        % descriptor
    )


@pytest.mark.parametrize(
    ("font", "wide"),
    [
        (font_identity, True),
        (font_japan, True),
        (font_private, True),
        (font_lost, True),
        (font_differences, False),
        (lambda made: font_differences(made, b"cid_"), False),
        (lambda made: font_differences(made, b"a"), False),
        (font_drawn, False),
        (font_symbolic, False),
    ],
    ids=["identity", "japan", "private", "lost", "glyph names", "cid names", "numbers", "drawn", "symbolic"],
)
def test_a_font_without_a_character_map_is_named(tmp_path: Path, font, wide: bool) -> None:  # type: ignore[no-untyped-def]
    """Red: one kind of font missing in `has_character_map`."""
    made = Pdf()
    made.page(shown(*L))
    numbered = "".join(chr(33 + "The pump of".find(c) % 40) for c in "".join(L))
    made.page(codes(GLYPHS) if wide else shown(numbered if font is font_symbolic else L[0]), {"F": font(made)})
    found = Read(tmp_path, made.bytes())
    assert found.pages == [L]
    (reason,) = found.reasons.values()
    assert reason.startswith("expected text, got 1 of 2 pages with text without a character map")
    assert ("(font ABCDEF+Calibri)" in reason) == (font not in (font_private, font_lost))


def standard_names(made: Pdf) -> int:
    return made.add(
        b"<< /Type /Font /Subtype /Type1 /BaseFont /X /Encoding << /Differences [97 /a /b /uni0063 /d.alt] >> >>"
    )


@pytest.mark.parametrize(
    ("font", "content", "text"),
    [
        (standard_names, shown("abcd"), "abcd"),
        (font_symbolic, shown("Its codes are those of letters."), "Its codes are those of letters."),
        (lambda made: made.add(b"<< /Type /Font /Subtype /Type1 /BaseFont /Times-Roman >>"), shown("plain"), "plain"),
        (
            lambda made: cid_font(made, "A", "Identity-H", "Identity", to_unicode([(5, "水"), (6, "é"), (7, "😀")])),
            codes([5, 6, 7]),
            "水é😀",
        ),
        (lambda made: cid_font(made, "SimSun", "GBK-EUC-H", "GB1"), codes([0xCBAE, 0xC4E0]), "水泥"),
        (lambda made: cid_font(made, "M", "90ms-RKSJ-H", "Japan1"), codes([0x9085, 0x8A77]), "水学"),
        (lambda made: cid_font(made, "M", "UniJIS-UTF16-V", "Japan1"), codes([0x6C34, 0x5B66]), "水学"),
        (
            lambda made: cid_font(
                made, "A", "Identity-H", "Identity", to_unicode([(5, "\ufb01"), (6, "e"), (7, "\ufb03")])
            ),
            codes([5, 6, 7]),
            "fieffi",
        ),
    ],
    ids=["glyph names", "symbolic", "no encoding", "two bytes", "GBK", "Shift JIS", "vertical", "ligatures"],
)
def test_fonts_with_a_map_are_read(tmp_path: Path, font, content: bytes, text: str) -> None:  # type: ignore[no-untyped-def]
    """Red: every composite font taken for one without a map; ligatures as they are printed."""
    made = Pdf()
    made.page(content, {"F": font(made)})
    found = Read(tmp_path, made.bytes())
    if text == "abcd":
        assert found.pages[0][0][:3] == "abc"
    else:
        assert found.pages == [[text]]
    assert not found.reasons


def test_a_few_characters_without_a_map_are_noted(tmp_path: Path) -> None:
    """A formula in a page of prose: the prose is read. Red: no share, so that one such character costs the page."""
    made = Pdf()
    font, odd = made.add(HELVETICA), font_identity(made)
    made.page(shown(*L) + codes([5, 6, 7], "G"), {"F": font, "G": odd})
    found = Read(tmp_path, made.bytes())
    assert found.pages[0][:3] == L and not found.reasons
    assert found.notes == ["3 characters in fonts without a character map (ABCDEF+Calibri) may be wrong"]


@pytest.mark.parametrize(("order", "text"), [(-1, "السلام عليكم"), (1, "مكيلع مالسلا")])
def test_arabic_is_read_as_it_is_shown(tmp_path: Path, order: int, text: str) -> None:
    """Glyphs stand from left to right, so the last letter comes first; a page printed the other way round reads so."""
    word = "السلام عليكم"
    made = Pdf()
    font = cid_font(made, "A", "Identity-H", "Identity", to_unicode([(ord(c), c) for c in set(word)]))
    made.page(codes([ord(c) for c in word[::order]]), {"F": font})
    assert Read(tmp_path, made.bytes()).pages == [[text]]


def test_a_filled_form_is_read(tmp_path: Path) -> None:
    """Typed, chosen, ticked; once, though two boxes show it. Not read: what is empty, off, hidden, secret or to push."""
    made = Pdf()
    box = b"/Type /Annot /Subtype /Widget /Rect [0 0 9 9]"
    person = made.add(b"<< /T (patient) /FT /Tx >>")
    twice = made.add(b"<< /T (ward) /FT /Tx /V (3 B) >>")
    fields = [
        b"<< %s /Parent %d 0 R /T (name) /V (Jane Doe) >>" % (box, person),
        b"<< %s /Parent %d 0 R >>" % (box, twice),
        b"<< %s /Parent %d 0 R >>" % (box, twice),
        b"<< %s /T (diagnosis) /FT /Tx /V <feff00c4007300740068006d0061000d0062> >>" % box,
        b"<< %s /T (allergies) /FT /Ch /V [(nuts) (dust)] >>" % box,
        b"<< %s /T (smoker) /FT /Btn /V /Yes /AS /Yes >>" % box,
        b"<< %s /T (drinker) /FT /Btn /V /Off >>" % box,
        b"<< %s /T (send) /FT /Btn /Ff 65536 /V /Yes >>" % box,
        b"<< %s /T (pin) /FT /Tx /Ff 8192 /V (1234) >>" % box,
        b"<< %s /T (trap) /FT /Tx /F 2 /V (hidden) >>" % box,
        b"<< %s /T (empty) /FT /Tx /V () >>" % box,
        b"<< /Type /Annot /Subtype /FreeText /Rect [0 0 9 9] /Contents (Checked by hand.) >>",
        b"<< /Type /Annot /Subtype /Text /Rect [0 0 9 9] /Contents (sticky) >>",
        b"null",
    ]
    made.page(shown(*L), keys=b"/Annots [%s]" % b" ".join(b"%d 0 R" % made.add(f) for f in fields))
    made.page(SCAN, keys=b"/Annots [%d 0 R]" % made.add(b"<< %s /T (last) /FT /Tx /V (page) >>" % box))
    found = Read(tmp_path, made.bytes())
    want = ["patient.name: Jane Doe", "ward: 3 B", "diagnosis: Ästhma", "b", "allergies: nuts, dust", "smoker: Yes"]
    assert found.pages == [[*L, *want, "Checked by hand."], ["last: page"]]
    assert found.notes == ["1 comments: not read"]


def test_what_is_around_the_pages_is_noted(tmp_path: Path) -> None:
    made = Pdf()
    made.page(shown(*L))
    attached = b"<< /Kids [<< /Names [(a) 3 0 R (b) 3 0 R] >> << /Names [(c) 3 0 R] >>] >>"
    made.catalog = (
        b"/Names << /EmbeddedFiles %s >> /AcroForm << /XFA (x) /Fields [] >>"
        b" /OCProperties << /OCGs [3 0 R] /D << /OFF [3 0 R] >> >>" % attached
    )
    found = Read(tmp_path, made.bytes())
    assert found.pages == [L] and found.notes == [
        "3 attached files: not read",
        "a form in XFA: what only it holds is not read",
        "1 hidden layers: their text is read too",
    ]


def test_one_bad_page_does_not_cost_the_file(tmp_path: Path) -> None:
    """Red: an error of one page raised for all."""
    made = Pdf()
    made.page(shown(*L))
    broken = made.add(stream(b"x\x9c nothing that unpacks", b"/Filter /Crypt2"))
    made.pages.append(made.add(PAGE % broken))
    made.page(shown(*L))
    found = Read(tmp_path, made.bytes())
    assert found.pages == [L, L]
    assert list(found.reasons) == ["page 2"] and "1 of 3 pages that cannot be read: " in found.reasons["page 2"]


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_turned_pages_are_read(tmp_path: Path, turn: int) -> None:
    made = Pdf()
    made.page(shown(*L), keys=b"/Rotate %d" % turn)
    assert Read(tmp_path, made.bytes()).pages == [L]


def test_columns_and_hyphens_stay_as_they_are_drawn(tmp_path: Path) -> None:
    content = shown("left one, trans-", "former two") + shown("right one", "right two", start="300 780")
    assert Read(tmp_path, book(content)).pages == [["left one, trans-", "former two", "right one", "right two"]]


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-128", "AES-256"])
@pytest.mark.parametrize("word", ["", "word"])
def test_a_file_that_opens_without_a_password_is_read(tmp_path: Path, algorithm: str, word: str) -> None:
    """It is encrypted all the same: an owner's password forbids printing."""
    import io

    import pypdf

    writer = pypdf.PdfWriter(io.BytesIO(book(shown(*L))))
    writer.encrypt(word, "owner", algorithm=algorithm)
    out = io.BytesIO()
    writer.write(out)
    found = Read(tmp_path, out.getvalue())
    if word:
        assert found.reasons == {"": "expected a PDF that opens, got one with a password"}
    else:
        assert found.pages == [L]


def test_a_damaged_file_is_read_or_refused(tmp_path: Path) -> None:
    whole = book(*[shown(*L)] * 3)
    moved = re.sub(rb"startxref\n\d+", b"startxref\n7", whole)
    repaired = Read(tmp_path, moved)
    assert repaired.pages == [L] * 3 and repaired.notes[0].startswith("repaired, and read as far as it goes: ")
    assert Read(tmp_path, whole).notes == []
    for cut in range(0, len(whole), 97):
        Read(tmp_path, whole[:cut])  # its bytes add up
    for at in range(20, len(whole), 61):
        Read(tmp_path, whole[:at] + b"\x00\xff<<" + whole[at + 4 :])


@pytest.mark.parametrize(
    "tree",
    [
        b"<< /Type /Pages /Count 1 /Kids [2 0 R] >>",
        b"<< /Type /Pages /Count 1 /Kids [2 0 R %d 0 R] >>",
        b"<< /Type /Pages /Count 0 /Kids [] >>",
        b"<< /Type /Pages /Count 2000000000 /Kids [%d 0 R] >>",
        b"<< /Type /Pages /Count -1 /Kids [%d 0 R] >>",
        b"<< /Type /Pages /Count 1 /Kids 7 >>",
        b"<< /Type /Pages >>",
        b"null",
    ],
)
def test_odd_trees_of_pages_end(tmp_path: Path, tree: bytes) -> None:
    """In a moment, with their pages or a reason."""
    made = Pdf()
    made.page(shown(*L))
    made.objects[1] = tree % made.pages[0] if b"%d" in tree else tree
    found = Read(tmp_path, made.bytes())
    assert found.pages == [L] if found.documents else found.reasons


def test_a_form_that_draws_itself_ends(tmp_path: Path) -> None:
    made = Pdf()
    form = len(made.objects) + 1
    made.add(
        stream(b"/Fm Do /Fm Do", b"/Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /Fm %d 0 R >> >>" % form)
    )
    made.page(shown(*L) + b" /Fm Do", drawn={"Fm": form})
    assert Read(tmp_path, made.bytes()).pages == [L]


def test_a_page_that_breaks_off_is_noted(tmp_path: Path) -> None:
    """The library gives what it can unpack. Red: its warnings thrown away."""
    made = Pdf()
    content = zlib.compress(shown(*[f"{n} {line}" for n in range(200) for line in L]))
    cut = made.add(stream(content[: len(content) // 2], b"/Filter /FlateDecode"))
    made.page(shown(*L))
    made.pages.append(made.add(PAGE % cut))
    found = Read(tmp_path, made.bytes())
    assert found.pages[0] == L and (found.notes or found.reasons)


def test_a_page_that_unpacks_to_gigabytes_is_skipped(tmp_path: Path) -> None:
    """A stream of 200 MB of blanks, packed twice, in a file of a few kB. Red: no limit of the library's."""
    packed = zlib.compress(zlib.compress(b" " * 200_000_000))
    made = Pdf()
    made.page(shown(*L))
    bomb = made.add(stream(packed, b"/Filter [/FlateDecode /FlateDecode]"))
    made.pages.append(made.add(PAGE % bomb))
    found = Read(tmp_path, made.bytes())
    assert found.pages == [L] and list(found.reasons) == ["page 2"]


def test_text_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cogen.data import document

    monkeypatch.setattr(document, "MAX_DOCUMENT_BYTES", 300)
    found = Read(tmp_path, book(*[shown(*L)] * 9))
    assert found.reasons == {"": "expected at most 300 characters of text in one document, got more"}


def test_long_lists_of_pages_are_cut(tmp_path: Path) -> None:
    found = Read(tmp_path, book(*[shown(*L), SCAN] * 25))
    (where,) = found.reasons
    assert where.startswith("pages 2, 4, 6, ") and where.endswith("38, 40, ...") and len(found.pages) == 25
