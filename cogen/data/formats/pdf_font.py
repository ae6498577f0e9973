"""Whether a font of a PDF says which characters its glyphs are (ISO 32000-1, 9.10.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

# CMaps whose codes are characters; all others of CID fonts need the tables of Adobe, which the library does not have.
_KNOWN_CMAPS = re.compile(r"/(.*-UCS2-|.*-UTF16-|GB-EUC-|GBpc-EUC-|GBK-EUC-|GBK2K-|ETen-B5-|ETenms-B5-|90ms-RKSJ-)[HV]")
_SUBSET = re.compile(r"/[A-Z]{6}\+")
_UNICODE_NAME = re.compile(r"/(uni([0-9A-Fa-f]{4})+|u[0-9A-Fa-f]{4,6})")
_NUMBERED = re.compile(r"/a\d+")  # Zapf's dingbats have such names, and glyphs that a program has numbered
SYMBOLIC = 4  # flag of a font descriptor
MAX_UNKNOWN_NAMES = 0.5  # of a font's glyphs


def has_character_map(font: Any) -> bool:
    """Whether the codes of a font can be read as characters; True where the font is too odd to tell."""
    with suppress(AttributeError, TypeError, KeyError, ValueError):
        if "/ToUnicode" in font:
            return True
        encoding = font["/Encoding"].get_object() if "/Encoding" in font else None
        kind = font.get("/Subtype")
        if kind == "/Type0":
            return isinstance(encoding, str) and bool(_KNOWN_CMAPS.fullmatch(encoding))
        if encoding is None:
            return bool(kind != "/Type3")
        names = [] if isinstance(encoding, str) else list(_glyph_names(encoding))
        is_pictures = "Dingbats" in str(font.get("/BaseFont"))
        unknown = sum(not _is_known(name) or (bool(_NUMBERED.fullmatch(name)) and not is_pictures) for name in names)
        return unknown <= MAX_UNKNOWN_NAMES * len(names)
    return True


def may_be_numbered(font: Any) -> bool:
    """Whether the codes of a font may be numbers that a program gave to its glyphs; no map says what they are."""
    with suppress(AttributeError, TypeError, KeyError, ValueError):
        if font.get("/Subtype") == "/TrueType" and "/ToUnicode" not in font and "/Encoding" not in font:
            flags = int(font["/FontDescriptor"].get_object().get("/Flags", 0))
            return bool(flags & SYMBOLIC and _SUBSET.match(str(font.get("/BaseFont"))))
    return False


def _glyph_names(encoding: Any) -> Iterator[str]:
    for value in encoding.get("/Differences", ()):
        if isinstance(value, str) and value != "/.notdef":
            yield value


def _is_known(name: str) -> bool:
    """Whether a glyph's name says its character, alone or as a variant (`/a.alt`) or ligature (`/f_i`)."""
    from pypdf._codecs import adobe_glyphs

    parts = ["/" + part for part in name.partition(".")[0].lstrip("/").split("_")]
    return all(part in adobe_glyphs or bool(_UNICODE_NAME.fullmatch(part)) for part in parts)
