"""Word documents give what a reader sees, once and in order; what is not read is named.

Each document is written part by part here, with a marker word in each construct, so that the right text is known
without the code under test. "Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from cogen.data.document import Document, Item, Note, Skipped
from cogen.data.formats import bytes_of, read_file

OPEN = "http://schemas.openxmlformats.org"
NAMESPACES = {
    "w": f"{OPEN}/wordprocessingml/2006/main",
    "m": f"{OPEN}/officeDocument/2006/math",
    "r": f"{OPEN}/officeDocument/2006/relationships",
    "a": f"{OPEN}/drawingml/2006/main",
    "c": f"{OPEN}/drawingml/2006/chart",
    "dgm": f"{OPEN}/drawingml/2006/diagram",
    "mc": f"{OPEN}/markup-compatibility/2006",
    "wps": "http://schemas.microsoft.com/office/word/2010/wordprocessingShape",
    "w14": "http://schemas.microsoft.com/office/word/2010/wordml",
    "v": "urn:schemas-microsoft-com:vml",
    "o": "urn:schemas-microsoft-com:office:office",
}
XMLNS = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NAMESPACES.items())
STRICT = {
    f"{OPEN}/{kind}/2006/": f"http://purl.oclc.org/ooxml/{kind}/"
    for kind in ("wordprocessingml", "officeDocument", "drawingml")
}


def package(body: str, parts: Mapping[str, str | bytes] | None = None, main: str = "word/document.xml") -> bytes:
    """A document of this body; `parts` are named by their kind, as `styles`, or by a path and `|` and their kind."""
    out = io.BytesIO()
    relation = f'<Relationship Id="r{{}}" Type="{NAMESPACES["r"]}/{{}}" Target="{{}}"/>'
    head = f'<Relationships xmlns="{OPEN}/package/2006/relationships">'
    folder, _, name = main.rpartition("/")
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_rels/.rels", head + relation.format(0, "officeDocument", main) + "</Relationships>")
        archive.writestr(main, f"<w:document {XMLNS}><w:body>{body}</w:body></w:document>")
        links = ""
        for number, (key, content) in enumerate((parts or {}).items(), start=1):
            path, _, kind = key.rpartition("|")
            path = path or f"{folder}/{kind}.xml"
            links += relation.format(number, kind, "/" + path)
            wrapped = (
                content
                if isinstance(content, bytes) or not content.startswith("<w:")
                else content.replace(">", f" {XMLNS}>", 1)
            )
            archive.writestr(path, wrapped)
        archive.writestr(f"{folder}/_rels/{name}.rels", head + links + "</Relationships>")
    return out.getvalue()


def items(folder: Path, content: bytes) -> list[Item]:
    path = folder / "a.docx"
    path.write_bytes(content)
    found = list(read_file(path, path.name))
    assert sum(map(bytes_of, found)) == len(content)
    return found


def read(folder: Path, content: bytes) -> tuple[str, list[str]]:
    """The text and the notes of a document that is read."""
    *notes, last = items(folder, content)
    assert isinstance(last, Document), last
    return last.text, [n.text for n in notes if isinstance(n, Note)]


def refused(folder: Path, content: bytes) -> str:
    (found,) = items(folder, content)
    assert isinstance(found, Skipped)
    return found.reason


def p(*runs: str, properties: str = "") -> str:
    return f"<w:p>{f'<w:pPr>{properties}</w:pPr>' if properties else ''}{''.join(runs)}</w:p>"


def r(text: str, properties: str = "") -> str:
    return f'<w:r><w:rPr>{properties}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def sdt(content: str, properties: str = "") -> str:
    return f"<w:sdt><w:sdtPr>{properties}</w:sdtPr><w:sdtContent>{content}</w:sdtContent></w:sdt>"


def cell(*blocks: str, properties: str = "") -> str:
    return f"<w:tc><w:tcPr>{properties}</w:tcPr>{''.join(blocks)}</w:tc>"


def row(*cells: str, properties: str = "") -> str:
    return f"<w:tr><w:trPr>{properties}</w:trPr>{''.join(cells)}</w:tr>"


def table(*rows: str) -> str:
    return f"<w:tbl><w:tblPr/><w:tblGrid/>{''.join(rows)}</w:tbl>"


def field(code: str, result: str) -> str:
    mark = '<w:r><w:fldChar w:fldCharType="{}"/></w:r>'
    code = code if code.startswith("<") else f"<w:r><w:instrText>{code}</w:instrText></w:r>"
    return mark.format("begin") + code + mark.format("separate") + result + mark.format("end")


def box(text: str) -> str:
    content = f"<w:txbxContent>{p(r(text))}{p(r(text + 'End'))}</w:txbxContent>"
    return (
        f'<w:r><mc:AlternateContent><mc:Choice Requires="wps"><w:drawing><wps:txbx>{content}</wps:txbx></w:drawing>'
        f"</mc:Choice><mc:Fallback><w:pict><v:textbox>{content}</v:textbox></w:pict></mc:Fallback>"
        "</mc:AlternateContent></w:r>"
    )


def math(inner: str) -> str:
    return f"<m:oMath>{inner}</m:oMath>"


def mr(text: str) -> str:
    return f"<m:r><m:t>{text}</m:t></m:r>"


SEEN: dict[str, tuple[str, str]] = {
    "block field": (sdt(p(r("One"))), "One"),
    "inline field": (p(r("Label: "), sdt(r("one"))), "Label: one"),
    "row field": (table(row(cell(p(r("a")))), sdt(row(cell(p(r("one"))), cell(p(r("two")))))), "a\none\ttwo"),
    "cell field": (table(row(cell(p(r("a"))), sdt(cell(p(r("one")))))), "a\tone"),
    "field in a field": (sdt(sdt(p(sdt(sdt(r("one")))))), "one"),
    "check box field": (p(sdt(r("\u2612"), "<w14:checkbox/>"), r(" yes")), "\u2612 yes"),
    "insertion": (p(r("a "), f"<w:ins>{r('one')}</w:ins>", r(" b")), "a one b"),
    "inserted block": (f"<w:ins>{p(r('one'))}</w:ins>", "one"),
    "moved to": (p(f"<w:moveTo>{r('one')}</w:moveTo>"), "one"),
    "deletion": (p(r("a"), f"<w:del>{r('x')}<w:r><w:delText>y</w:delText></w:r></w:del>", r("b")), "ab"),
    "moved away": (p(r("a"), f"<w:moveFrom>{r('x')}</w:moveFrom>", r("b")), "ab"),
    "deleted paragraph end": (p(r("one "), properties="<w:rPr><w:del/></w:rPr>") + p(r("two")), "one two"),
    "large first letter": (p(r("T"), properties='<w:framePr w:dropCap="drop"/>') + p(r("he end")), "The end"),
    "deleted row": (table(row(cell(p(r("x"))), properties="<w:del/>"), row(cell(p(r("one"))))), "one"),
    "smart tags": (p(f"<w:smartTag><w:smartTag>{r('one')}</w:smartTag></w:smartTag>"), "one"),
    "custom XML": ("<w:customXml>" + p("<w:customXml>", r("one"), "</w:customXml>") + "</w:customXml>", "one"),
    "link": (p(r("a "), f"<w:hyperlink>{r('one')}</w:hyperlink>"), "a one"),
    "simple field": (p('<w:fldSimple w:instr="AUTHOR">', r("one"), "</w:fldSimple>"), "one"),
    "field code": (p(r("a "), field("REF x", r("one")), r(" b")), "a one b"),
    "nested field codes": (p(field(field("IF", r("x")), r("one") + field("REF", r(" two")))), "one two"),
    "field over paragraphs": (
        p(field("TOC", r("one")).replace('<w:r><w:fldChar w:fldCharType="end"/></w:r>', ""))
        + p(r("two"), '<w:r><w:fldChar w:fldCharType="end"/></w:r>')
        + p(r("three")),
        "one\ntwo\nthree",
    ),
    "field without end": (p('<w:r><w:fldChar w:fldCharType="begin"/></w:r>', r("one")) + p(r("two")), "one\ntwo"),
    "text box": (p(r("before "), box("boxed"), r("after")) + p(r("next")), "before after\nboxed\nboxedEnd\nnext"),
    "older text box": (
        p(f"<w:r><w:pict><v:textbox><w:txbxContent>{p(r('one'))}</w:txbxContent></v:textbox></w:pict></w:r>"),
        "one",
    ),
    "word art": (p('<w:r><w:pict><v:shape><v:textpath string="one"/></v:shape></w:pict></w:r>'), "one"),
    "nested tables": (
        table(row(cell(p(r("a")), table(row(cell(p(r("b"))), cell(p(r("c"))))), p()), cell(p(r("d"))))),
        "a\nb\tc\nd",
    ),
    "cells merged across": (
        table(row(cell(p(r("wide")), properties='<w:gridSpan w:val="2"/>')), row(cell(p(r("a"))), cell(p(r("b"))))),
        "wide\na\tb",
    ),
    "cells merged down": (
        table(
            row(cell(p(r("tall")), properties='<w:vMerge w:val="restart"/>'), cell(p(r("a")))),
            row(cell(p(r("x")), properties="<w:vMerge/>"), cell(p(r("b")))),
        ),
        "tall\ta\n\tb",
    ),
    "tabs and breaks": (
        p("<w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t><w:cr/><w:t>d</w:t></w:r>"),
        "a\tb\nc\nd",
    ),
    "tab stops are no tabs": (p(r("one"), properties='<w:tabs><w:tab w:val="left"/></w:tabs>'), "one"),
    "hyphens": (
        p("<w:r><w:t>a</w:t><w:noBreakHyphen/><w:t>b</w:t><w:softHyphen/><w:t>c</w:t></w:r>", r("d\u00ade")),
        "a-bcde",
    ),
    "symbols": (
        p(
            '<w:r><w:t>5 </w:t><w:sym w:font="Symbol" w:char="F0B1"/><w:t>1 </w:t><w:sym w:font="Symbol" w:char="F06D"/></w:r>'
        ),
        "5 \u00b11 \u03bc",
    ),
    "text in a symbol font": (p(r("m\uf0b3", '<w:rFonts w:ascii="Symbol"/>')), "\u03bc\u2265"),
    "ruby": (
        p(f"<w:r><w:ruby><w:rubyPr/><w:rt>{r('kan')}</w:rt><w:rubyBase>{r('漢')}</w:rubyBase></w:ruby></w:r>"),
        "漢(kan)",
    ),
    "superscript": (
        p(
            r("10"),
            r("3", '<w:vertAlign w:val="superscript"/>'),
            r(" 1"),
            r("st", '<w:vertAlign w:val="superscript"/>'),
        ),
        "10^3 1st",
    ),
    "hidden run": (p(r("a"), r("x", "<w:vanish/>"), r("b", '<w:vanish w:val="0"/>')), "ab"),
    "prompt of an empty field": (p(r("Name: "), sdt(r("Click to enter"), "<w:showingPlcHdr/>")), "Name:"),
    "older form fields": (
        p(
            '<w:r><w:fldChar w:fldCharType="begin"><w:ffData><w:checkBox><w:default w:val="0"/><w:checked/></w:checkBox>'
            "</w:ffData></w:fldChar></w:r><w:r><w:instrText>FORMCHECKBOX</w:instrText></w:r>"
            '<w:r><w:fldChar w:fldCharType="end"/></w:r>',
            r(" one"),
        ),
        "\u2612 one",
    ),
    "formula": (
        p(
            math(
                f"{mr('E')}{mr('=')}<m:f><m:fPr/><m:num>{mr('a+b')}</m:num><m:den>{mr('c')}</m:den></m:f>"
                f"<m:sSup><m:e>{mr('x')}</m:e><m:sup>{mr('2')}</m:sup></m:sSup>"
            )
        ),
        "E=(a+b)/cx^2",
    ),
    "sum and root": (
        p(
            math(
                '<m:nary><m:naryPr><m:chr m:val="\u2211"/></m:naryPr>'
                f"<m:sub>{mr('i=1')}</m:sub><m:sup>{mr('n')}</m:sup><m:e>"
                f"<m:rad><m:deg/><m:e>{mr('i')}</m:e></m:rad></m:e></m:nary>"
            )
        ),
        "\u2211_(i=1)^n \u221ai",
    ),
    "matrix": (
        p(
            math(
                f"<m:d><m:dPr/><m:e><m:m><m:mr><m:e>{mr('a')}</m:e><m:e>{mr('b')}</m:e></m:mr>"
                f"<m:mr><m:e>{mr('c')}</m:e><m:e>{mr('d')}</m:e></m:mr></m:m></m:e></m:d>"
            )
        ),
        "([a, b; c, d])",
    ),
}


@pytest.mark.parametrize("kind", SEEN)
def test_what_a_reader_sees_is_read_once(tmp_path: Path, kind: str) -> None:
    """Red: without the case of `Story` for each kind."""
    body, text = SEEN[kind]
    assert read(tmp_path, package(p(r("First.")) + body + p(r("Last.")))) == (f"First.\n{text}\nLast.", [])


def test_all_kinds_in_one_document_keep_their_order(tmp_path: Path) -> None:
    text, notes = read(tmp_path, package("".join(body for body, _ in SEEN.values() if _ != "one\ntwo")))
    assert text == "\n".join(text for _, text in SEEN.values() if text != "one\ntwo") and notes == []


def test_parts_in_the_strict_form_and_at_other_places(tmp_path: Path) -> None:
    """Red: the part `word/document.xml` by its name; the transitional namespaces alone."""
    content = package(SEEN["inline field"][0] + SEEN["formula"][0], main="other/main.xml")
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            text = old.read(name).decode()
            for transitional, strict in STRICT.items():
                text = text.replace(transitional, strict)
            new.writestr(name, f'<?xml version="1.0" encoding="UTF-16"?>{text}'.encode("utf-16"))
    assert read(tmp_path, out.getvalue())[0] == "Label: one\nE=(a+b)/cx^2"


def test_notes_follow_the_paragraph_that_refers_to_them(tmp_path: Path) -> None:
    """Red: notes read where they are referred to; separators read; a second reference that repeats the note."""
    foot = (
        f'<w:footnotes><w:footnote w:type="separator" w:id="0">{p(r("x"))}</w:footnote>'
        f'<w:footnote w:id="1">{p("<w:r><w:footnoteRef/></w:r>", r("a note"))}</w:footnote></w:footnotes>'
    )
    end = f'<w:endnotes><w:endnote w:id="1">{p(r("the end"))}{p(r("of it"))}</w:endnote></w:endnotes>'
    mark = '<w:r><w:{}Reference w:id="1"/></w:r>'
    body = p(r("one"), mark.format("footnote"), r(" two"), mark.format("endnote")) + p(
        r("three"), mark.format("footnote")
    )
    text, notes = read(tmp_path, package(body, {"footnotes": foot, "endnotes": end}))
    assert text == "one[1] two[2]\n[1] a note\n[2] the end\nof it\nthree[1]" and notes == []
    body = table(row(cell(p(r("a"), mark.format("footnote"))), cell(p(r("b")))), row(cell(p(r("c")))))
    assert read(tmp_path, package(body, {"footnotes": foot}))[0] == "a[1]\tb\n[1] a note\nc"


def test_numbers_of_lists_are_read(tmp_path: Path) -> None:
    """Red: no counting; lower levels that go on; a list's start; bullets as numbers."""
    level = '<w:lvl w:ilvl="{}"><w:start w:val="{}"/><w:numFmt w:val="{}"/><w:lvlText w:val="{}"/></w:lvl>'
    numbering = (
        '<w:numbering><w:abstractNum w:abstractNumId="0">'
        + level.format(0, 3, "decimal", "%1.")
        + level.format(1, 1, "lowerLetter", "%1(%2)")
        + '</w:abstractNum><w:abstractNum w:abstractNumId="1">'
        + level.format(0, 1, "bullet", "\uf0b7")
        + '</w:abstractNum><w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num>'
        '<w:num w:numId="2"><w:abstractNumId w:val="1"/></w:num>'
        '<w:num w:numId="3"><w:abstractNumId w:val="0"/><w:lvlOverride w:ilvl="0"><w:startOverride w:val="9"/>'
        "</w:lvlOverride></w:num></w:numbering>"
    )
    styles = (
        '<w:styles><w:style w:type="paragraph" w:styleId="L"><w:pPr><w:numPr><w:numId w:val="2"/></w:numPr></w:pPr>'
        '</w:style><w:style w:type="paragraph" w:styleId="M"><w:basedOn w:val="L"/></w:style></w:styles>'
    )

    def numbered(text: str, num: int, level: int = 0) -> str:
        return p(r(text), properties=f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{num}"/></w:numPr>')

    body = "".join([numbered("one", 1), numbered("sub", 1, 1), numbered("sub", 1, 1), numbered("two", 1)])
    body += numbered("sub", 1, 1) + p(r("dot"), properties='<w:pStyle w:val="M"/>') + numbered("new", 3)
    body += numbered("none", 0)
    text, _ = read(tmp_path, package(body, {"numbering": numbering, "styles": styles}))
    assert text.split("\n") == ["3. one", "3(a) sub", "3(b) sub", "4. two", "4(a) sub", "- dot", "9. new", "none"]


def test_text_hidden_by_its_style_is_not_read(tmp_path: Path) -> None:
    styles = (
        '<w:styles><w:style w:type="character" w:styleId="H"><w:rPr><w:vanish/></w:rPr></w:style>'
        '<w:style w:type="character" w:styleId="I"><w:basedOn w:val="H"/></w:style>'
        '<w:style w:type="paragraph" w:styleId="P"><w:rPr><w:vanish/></w:rPr></w:style></w:styles>'
    )
    body = p(r("a"), r("x", '<w:rStyle w:val="I"/>'), r("b", '<w:rStyle w:val="I"/><w:vanish w:val="false"/>'))
    body += p(r("x"), properties='<w:pStyle w:val="P"/>')
    assert read(tmp_path, package(body, {"styles": styles})) == ("ab", [])


def test_a_field_shows_what_is_stored_elsewhere_in_the_file(tmp_path: Path) -> None:
    binding = '<w:showingPlcHdr/><w:dataBinding w:prefixMappings="xmlns:n=\'u\'" w:xpath="/n:a[1]/n:b[1]"/>'
    body = p(r("Name: "), sdt(r("Click here"), binding)) + sdt(p(), binding) + p(r("end"))
    content = package(body, {"customXml/item1.xml|customXml": '<a xmlns="u"><b>Ada</b></a>'})
    assert read(tmp_path, content)[0] == "Name: Ada\nAda\nend"


def test_inserted_files_are_read_or_named(tmp_path: Path) -> None:
    chunk = "".join(f'<w:altChunk r:id="r{n}"/>' for n in (1, 2, 3, 4))
    inserted = {
        "word/a.html|aFChunk": '<meta charset="windows-1254"><p>ya\u011f'.encode("windows-1254"),
        "word/b.docx|aFChunk": package(p(r("inner"))),
        "word/c.txt|aFChunk": "plain \u00e4".encode(),
        "word/d.rtf|aFChunk": rb"{\rtf1 x}",
    }
    text, notes = read(tmp_path, package(p(r("a")) + chunk + p(r("b")), inserted))
    assert text == "a\nya\u011f\ninner\nplain \u00e4\nb" and notes == ["not read: 1 inserted file"]


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    """Red: a kind that is not counted; headers without text that are."""
    drawing = "<w:r><w:drawing><a:graphic>{}</a:graphic></w:drawing></w:r>"
    body = p(r("text"), drawing.format("<a:blip/>"), drawing.format("<a:blip/>"), drawing.format("<c:chart/>"))
    body += p(drawing.format("<dgm:relIds/>"), "<w:r><w:object><o:OLEObject/></w:object></w:r>")
    body += p('<w:r><w:commentReference w:id="1"/></w:r>', '<w:r><w:sym w:font="Odd" w:char="F001"/></w:r>')
    parts = {"header": f"<w:hdr>{p(r('City Hospital'))}</w:hdr>", "word/f.xml|footer": "<w:ftr></w:ftr>"}
    text, notes = read(tmp_path, package(body, parts))
    assert text == "text" and len(notes) == 1
    assert notes[0].removeprefix("not read: ").split(", ") == [
        *("1 chart", "1 comment", "1 diagram", "1 embedded object", "2 pictures"),
        *("1 symbol of the font Odd", "2 words in headers"),
    ]


def test_a_document_of_pictures_says_so(tmp_path: Path) -> None:
    assert refused(tmp_path, package(p("<w:r><a:blip/></w:r>"))) == "expected text, got 1 picture"
    assert refused(tmp_path, package(p())) == "no text was found in it"


BOMB = '<!DOCTYPE a [<!ENTITY a "x"><!ENTITY b "&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "got one with a password"),
        (package("").replace(b"document.xml", b"documemt.xml"), "no text body"),
        (package(table(row(cell("{}"))).replace("{}", "<w:tbl><w:tr><w:tc>" * 10_000)), "XMLSyntaxError"),
        (package("<w:tbl><w:tr><w:tc>" * 10_000 + "</w:tc></w:tr></w:tbl>" * 10_000), "Excessive depth"),
        (package("", {"styles": f"{BOMB}<w:styles xmlns:w='{NAMESPACES['w']}'>&b;</w:styles>"}), "declares entities"),
        (package("<w:p>"), "XMLSyntaxError"),
    ],
    ids=["old or locked", "no main part", "deep and cut", "deep", "entities", "cut"],
)
def test_what_is_no_document_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reason in refused(tmp_path, content)


def test_entities_reach_no_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    bad = f'<!DOCTYPE a [<!ENTITY e SYSTEM "{secret.as_uri()}">]><w:styles xmlns:w="{NAMESPACES["w"]}">&e;</w:styles>'
    assert "declares entities" in refused(tmp_path, package(p(r("a")), {"styles": bad}))


def test_a_document_of_the_library_is_read(tmp_path: Path) -> None:
    """With merged cells, which the library repeats."""
    import docx

    made, out = docx.Document(), io.BytesIO()
    made.core_properties.title = "Structures"
    made.add_heading("Beams", 1)
    made.add_paragraph("first", style="List Number")
    made.add_paragraph("second", style="List Number")
    made.add_paragraph("dot", style="List Bullet")
    grid = made.add_table(2, 3)
    grid.cell(0, 0).merge(grid.cell(0, 1)).text = "wide"
    grid.cell(0, 2).text = "c"
    for column, text in enumerate("xyz"):
        grid.cell(1, column).text = text
    made.save(out)
    (found,) = items(tmp_path, out.getvalue())
    assert isinstance(found, Document)
    assert (found.title, found.text) == ("Structures", "Beams\n1. first\n2. second\n- dot\nwide\tc\nx\ty\tz")
