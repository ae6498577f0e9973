"""The text of a Word document's parts (WordprocessingML), as a reader sees it: each thing once, in order.

Source: ECMA-376, Part 1, chapters 17 (WordprocessingML) and 22.1 (Office Math).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cogen.data.formats.formula import formula_text
from cogen.data.formats.layout import SUBSCRIPT, SUPERSCRIPT, Layout
from cogen.data.formats.word_marks import (
    A,
    M,
    V,
    closed_fields,
    form_field,
    is_continued,
    is_merged,
    is_row_unseen,
    not_chosen,
)
from cogen.data.formats.word_styles import Numbering, Styles, W, is_on, value
from cogen.data.formats.word_symbols import symbol, symbols_of

# What the reader of the final document does not see: deleted text, the code of fields, what is only about the text.
_UNSEEN = {f"{W}{n}" for n in ("del", "moveFrom", "delText", "instrText", "delInstrText", "tblGrid", "annotationRef")}
_TEXT = {
    f"{W}tab": "\t",
    f"{W}ptab": "\t",
    f"{W}br": "\n",
    f"{W}cr": "\n",
    f"{W}noBreakHyphen": "-",
    f"{W}rt": "(",
}
_FLOATING = {f"{W}txbxContent", f"{A}txBody"}
_PARAGRAPHS = {f"{W}p", f"{A}p"}
# What is seen and is not text, by the name that a user has for it.
_OBJECTS = {"blip": "picture(s)", "imagedata": "picture(s)", "chart": "chart(s)", "relIds": "diagram(s)"}
_OBJECTS |= {"OLEObject": "embedded object(s)", "control": "form element(s)", "subDoc": "linked document(s)"}
_OBJECTS |= {"commentReference": "comment(s)"}


@dataclass
class Story:
    """Reads parts of one document; what it does not read is counted in `unread`, by its name.

    Args:
        notes: footnotes and endnotes, by (kind, id).
        inserted: the text of a part that is inserted as it is (`w:altChunk`), by its relationship's id; None if its
            format is not read.
        bound: the present value of a form field that shows a value stored elsewhere in the file; "" if there is none.
    """

    styles: Styles
    numbering: Numbering
    notes: Mapping[tuple[str, str], Any]
    inserted: Callable[[str], str | None]
    bound: Callable[[Any], str]
    unread: Counter[str] = field(default_factory=Counter)
    layout: Layout = field(default_factory=Layout)
    _fields: list[bool] = field(default_factory=list)  # of the open fields, whether their result has begun
    _closed_fields: set[Any] = field(default_factory=set)
    _read_notes: dict[tuple[str, str], None] = field(default_factory=dict)  # in the order of their numbers

    def read(self, root: Any) -> None:
        """Add the text of `root` and of the notes that it refers to."""
        from lxml import etree

        self._closed_fields |= set(closed_fields(root))
        for ruby in root.iter(f"{W}ruby"):  # the base is read before the gloss over it
            ruby.extend(list(ruby.iterchildren(f"{W}rt")))
        chosen_away = not_chosen(root)
        walk = etree.iterwalk(root, events=("start", "end"))
        for event, element in walk:
            if event == "end":
                self._end(element)
            elif element in chosen_away or not self._start(element):
                walk.skip_subtree()
        self.layout.end_line()

    def _start(self, element: Any) -> bool:
        """Read what begins here; whether what is inside is to be read too."""
        tag = element.tag
        if tag in _UNSEEN or tag.endswith("Pr") or self._is_unseen(element, tag):
            return False
        if tag == f"{W}p":
            self.layout.label(self.numbering.label(element))
        elif tag == f"{W}tr":
            self.layout.open_row()
        elif tag == f"{W}tc":
            self.layout.open_cell()
            return not is_merged(element)
        elif tag in _FLOATING:
            self.layout.open_apart()
        elif tag == f"{M}oMath":
            self._add(formula_text(element))
            return False
        elif tag == f"{W}fldChar":
            self._field(element)
            return False
        else:
            return self._inline(element, tag)
        return True

    def _inline(self, element: Any, tag: str) -> bool:
        if tag in (f"{W}t", f"{A}t"):
            self._text(element)
        elif tag in _TEXT:
            self._add(_TEXT[tag])
        elif tag == f"{W}sym":
            self._symbol(value(element, "font"), value(element, "char"))
        elif tag in (f"{W}footnoteReference", f"{W}endnoteReference"):
            self._note(element)
        elif tag == f"{W}altChunk":
            self._inserted(element)
            return False
        elif tag == f"{V}textpath":
            self.layout.open_apart()
            self._add(value(element, "string"))
            self.layout.close_apart()
        elif kind := _OBJECTS.get(tag.rpartition("}")[2] if isinstance(tag, str) else ""):
            self.unread[kind] += 1
        return True

    def _end(self, element: Any) -> None:
        tag = element.tag
        if tag in _PARAGRAPHS and not is_continued(element):
            self.layout.end_line()
        elif tag == f"{W}tc":
            self.layout.close_cell()
        elif tag == f"{W}tr" and not is_row_unseen(element):
            self.layout.close_row()
        elif tag in _FLOATING:
            self.layout.close_apart()
        elif tag == f"{W}rt":
            self._add(")")

    def _is_unseen(self, element: Any, tag: str) -> bool:
        if tag == f"{W}r":
            return self.styles.is_hidden(element)
        if tag == f"{W}tr":
            return is_row_unseen(element)
        if tag == f"{W}sdt":
            return self._is_placeholder(element)
        return False

    def _is_placeholder(self, sdt: Any) -> bool:
        """Whether a form field shows no value of its own; one that it has elsewhere in the file is read here."""
        properties = sdt.find(f"{W}sdtPr")
        if properties is None:
            return False
        is_prompt = is_on(properties.find(f"{W}showingPlcHdr"))
        if is_prompt or not "".join(sdt.itertext(f"{W}t")).strip():
            self._add(self.bound(properties))
            if next(sdt.iter(f"{W}p"), None) is not None:
                self.layout.end_line()
        return is_prompt

    def _add(self, text: str) -> None:
        if all(self._fields):
            self.layout.add(text)

    def _text(self, element: Any) -> None:
        text = "".join(element.itertext()).replace("\n", " ").replace("\r", " ").replace("\xad", "")
        run = element.getparent()
        properties = run.find(f"{W}rPr") if run is not None else None
        if properties is not None and all(self._fields):
            font = properties.find(f"{W}rFonts")
            text = symbols_of(text, "" if font is None else value(font, "ascii"))
            align = properties.find(f"{W}vertAlign")
            mark = {"superscript": SUPERSCRIPT, "subscript": SUBSCRIPT}.get(
                "" if align is None else value(align, "val")
            )
            if mark:
                return self.layout.add_script(text, mark)
        return self._add(text)

    def _symbol(self, font: str, code: str) -> None:
        text = symbol(font, code)
        if not text:
            self.unread[f"symbol(s) of the font {font or 'unknown'}"] += 1
        self._add(text)

    def _field(self, mark: Any) -> None:
        """The code of a field is not read, its result is; a field that never ends is no field."""
        if mark not in self._closed_fields:
            return
        kind = value(mark, "fldCharType")
        if kind == "begin":
            self._add(form_field(mark))
            self._fields.append(False)
        elif kind == "separate" and self._fields:
            self._fields[-1] = True
        elif kind == "end" and self._fields:
            self._fields.pop()

    def _note(self, reference: Any) -> None:
        kind, identity = reference.tag.removeprefix(W).removesuffix("Reference"), value(reference, "id")
        note = self.notes.get((kind, identity))
        if note is None or not all(self._fields):
            return
        is_first = (kind, identity) not in self._read_notes
        self._read_notes[kind, identity] = None
        has_own_mark = value(reference, "customMarkFollows") not in ("", "0", "false", "off")
        mark = "" if has_own_mark else f"[{list(self._read_notes).index((kind, identity)) + 1}]"
        self._add(mark)
        if is_first:
            self.layout.open_apart()
            self._add(f"{mark} " if mark else "")
            self.read(note)
            self.layout.close_apart(is_note=True)

    def _inserted(self, element: Any) -> None:
        text = self.inserted(value(element, "id"))
        if text is None:
            self.unread["inserted file(s)"] += 1
        self.layout.end_line()
        self._add(text or "")
        self.layout.end_line()
