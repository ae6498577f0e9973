"""The encoding of a web page: by its byte order mark, else by its declaration, else a guess.

Source: the Encoding Standard (encoding.spec.whatwg.org) for labels, HTML (html.spec.whatwg.org, 13.2.3) for the order.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cogen.data.document import bad_data

# A page with more faults than this share of its characters outside of ASCII is not in the encoding that it declares.
MAX_FAULTS = 0.1
DECLARED_WITHIN = 1 << 16  # bytes: browsers look in the first 1024, and again when they meet a declaration later

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

# Encoding -> labels, apart from its own name; `cp125N` and `x-cp125N` are added below.
_LABELS: Mapping[str, str] = {
    "UTF-8": "unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf8 x-unicode20utf8 utf-16 utf-16le utf-16be utf-32"
    " csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff unicodefffe",
    "IBM866": "866 cp866 csibm866",
    "ISO-8859-2": "csisolatin2 iso-ir-101 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987 l2 latin2",
    "ISO-8859-3": "csisolatin3 iso-ir-109 iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988 l3 latin3",
    "ISO-8859-4": "csisolatin4 iso-ir-110 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988 l4 latin4",
    "ISO-8859-5": "csisolatincyrillic cyrillic iso-ir-144 iso8859-5 iso88595 iso_8859-5 iso_8859-5:1988",
    "ISO-8859-6": "arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6-e iso-8859-6-i"
    " iso-ir-127 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987",
    "ISO-8859-7": "csisolatingreek ecma-118 elot_928 greek greek8 iso-ir-126 iso8859-7 iso88597 iso_8859-7"
    " iso_8859-7:1987 sun_eu_greek",
    "ISO-8859-8": "csiso88598e csisolatinhebrew hebrew iso-8859-8-e iso-ir-138 iso8859-8 iso88598 iso_8859-8"
    " iso_8859-8:1988 visual csiso88598i iso-8859-8-i logical",
    "ISO-8859-10": "csisolatin6 iso-ir-157 iso8859-10 iso885910 l6 latin6",
    "ISO-8859-13": "iso8859-13 iso885913",
    "ISO-8859-14": "iso8859-14 iso885914",
    "ISO-8859-15": "csisolatin9 iso8859-15 iso885915 iso_8859-15 l9",
    "ISO-8859-16": "iso8859-16 iso885916",
    "KOI8-R": "cskoi8r koi koi8 koi8_r",
    "KOI8-U": "koi8-ru",
    "macintosh": "csmacintosh mac x-mac-roman",
    "windows-874": "dos-874 iso-8859-11 iso8859-11 iso885911 tis-620",
    "windows-1250": "",
    "windows-1251": "",
    "windows-1252": "ansi_x3.4-1968 ascii cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100 iso8859-1 iso88591 iso_8859-1"
    " iso_8859-1:1987 l1 latin1 us-ascii x-user-defined",
    "windows-1253": "",
    "windows-1254": "csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 l5 latin5",
    "windows-1255": "",
    "windows-1256": "",
    "windows-1257": "",
    "windows-1258": "",
    "x-mac-cyrillic": "x-mac-ukrainian",
    "GBK": "chinese csgb2312 csiso58gb231280 gb2312 gb_2312 gb_2312-80 iso-ir-58 x-gbk",
    "gb18030": "",
    "Big5": "big5-hkscs cn-big5 csbig5 x-x-big5",
    "EUC-JP": "cseucpkdfmtjapanese x-euc-jp",
    "ISO-2022-JP": "csiso2022jp",
    "Shift_JIS": "csshiftjis ms932 ms_kanji shift-jis sjis windows-31j x-sjis",
    "EUC-KR": "cseuckr csksc56011987 iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 windows-949",
    # Browsers show nothing of these, for fear of scripts; a reader of text need not.
    "ISO-2022-KR": "csiso2022kr",
    "HZ": "hz-gb-2312",
    "ISO-2022-CN": "iso-2022-cn-ext",
}

# Python's codecs for them, where the name is another or a wider one is meant; the first that accepts all bytes counts.
_CODECS: Mapping[str, tuple[str, ...]] = {
    "ISO-8859-8": ("iso8859_8", "cp1255"),
    "windows-874": ("cp874",),
    "macintosh": ("mac_roman",),
    "x-mac-cyrillic": ("mac_cyrillic",),
    "GBK": ("gb18030",),
    "Big5": ("cp950", "big5hkscs"),
    "EUC-JP": ("euc_jp", "euc_jis_2004"),
    "ISO-2022-JP": ("iso2022_jp_ext", "iso2022_jp_2004"),
    "Shift_JIS": ("cp932", "shift_jis_2004"),
    "EUC-KR": ("cp949", "johab"),
    "HZ": ("hz",),
    "ISO-2022-CN": (),
}

_META = re.compile(rb"<meta[\s/]+[^<>]*>", re.IGNORECASE)
_ATTRIBUTE = re.compile(rb"""([^\s"'>/=]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")
_CHARSET = re.compile(rb"""charset\s*=\s*["']?\s*([^\s"';>]+)""", re.IGNORECASE)
_XML = re.compile(rb"""^\s*<\?xml\s[^>]*?encoding\s*=\s*["']([^"'>]+)["']""")


@dataclass(frozen=True)
class Decoded:
    """A page as text.

    Args:
        note: which encoding by which evidence; empty for UTF-8 without a fault.
    """

    text: str
    note: str = ""


def decode_page(content: bytes, where: str = "") -> Decoded:
    """A page's bytes as text: by the byte order mark, else by its declaration, else by a guess.

    Args:
        where: path of the page, for the error.
    Raises:
        DataError: it declares an encoding that cannot be read.
    """
    for mark, codec in _MARKS:
        if content.startswith(mark):
            text, num_faults = _replaced(content, codec)
            name = codec.removesuffix("-sig").upper()
            note = f"read as {name}, by its byte order mark" if num_faults or name != "UTF-8" else ""
            return Decoded(text.removeprefix("\ufeff"), note + _faults(num_faults))
    label = declared(content)
    name = encoding_of(label)
    if name == "ISO-2022-CN":
        raise bad_data(where, "an encoding that can be read", label, "Save the page as UTF-8.")
    if name and (found := _by_declaration(content, name)):
        return found
    return _by_guess(content, label)


def declared(content: bytes) -> str:
    """The label of the encoding that a page declares, in lower case; empty if it declares none."""
    head = _without_comments(content[:DECLARED_WITHIN])
    head = re.split(rb"<body[\s>]", head, maxsplit=1, flags=re.IGNORECASE)[0]
    for meta in _META.findall(head):
        values = {m[0].lower(): m[1] or m[2] or m[3] for m in _ATTRIBUTE.findall(meta)}
        if found := values.get(b"charset"):
            return _label(found)
        is_type = values.get(b"http-equiv", b"").strip().lower() == b"content-type"
        if is_type and (match := _CHARSET.search(values.get(b"content", b""))):
            return _label(match[1])
    match = _XML.search(head)
    return _label(match[1]) if match else ""


def _without_comments(head: bytes) -> bytes:
    first, *comments = head.split(b"<!--")
    return first + b"".join(comment.partition(b"-->")[2] for comment in comments)


def encoding_of(label: str) -> str:
    """The encoding that a label stands for; empty if it stands for none."""
    match = re.fullmatch(r"(?:x-)?cp(125\d)", label)
    if match:
        label = f"windows-{match[1]}"
    return next((name for name, labels in _LABELS.items() if label == name.lower() or label in labels.split()), "")


def _label(found: bytes) -> str:
    return found.decode("latin-1").strip().lower()


def _by_declaration(content: bytes, name: str) -> Decoded | None:
    """The page in the encoding that it declares; None if it is not in that one."""
    codecs_of = _CODECS.get(name, (name,))
    for codec in codecs_of:
        try:
            return Decoded(content.decode(codec), _evidence(content, name))
        except UnicodeDecodeError:
            continue
    text, num_faults = _replaced(content, codecs_of[0])
    num_wide = sum(not c.isascii() for c in text)
    if num_faults > MAX_FAULTS * num_wide:
        return None
    return Decoded(text, f"read as {name}, as it declares" + _faults(num_faults))


def _evidence(content: bytes, name: str) -> str:
    if name == "UTF-8" or (content.isascii() and b"\x1b" not in content and name != "HZ"):
        return ""
    note = f"read as {name}, as it declares"
    return note if content.isascii() or not _is_utf8(content) else f"{note}; its bytes would be UTF-8 too"


def _by_guess(content: bytes, label: str) -> Decoded:
    from cogen.data.formats.guess import guessed

    why = f"it declares {label}, which it is not" if encoding_of(label) else f"it declares {label}, which is unknown"
    why = why if label else "it declares none"
    if content[:1] and b"\0" in content[:2]:
        text, num_faults = _replaced(content, "utf-16-be" if content[0] == 0 else "utf-16-le")
        return Decoded(text, f"read as UTF-16, a guess: {why}" + _faults(num_faults))
    name = guessed(content)
    text, num_faults = _replaced(content, _CODECS.get(name, (name,))[0])
    is_sure = name == "UTF-8" and not num_faults
    if is_sure:
        return Decoded(text, f"read as UTF-8: {why}" if label and not content.isascii() else "")
    return Decoded(text, f"read as {name}, a guess: {why}" + _faults(num_faults))


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _replaced(content: bytes, codec: str) -> tuple[str, int]:
    """Text, and how many faults became U+FFFD in it."""
    try:
        return content.decode(codec), 0
    except UnicodeDecodeError:
        text = content.decode(codec, "replace")
    if codec == "gb18030":  # Windows writes the euro sign as one byte, which the standard reads
        return _with_euro(content)
    own = content.count("\ufffd".encode()) if codec.startswith("utf-8") else 0
    return text, max(1, text.count("\ufffd") - own)


def _with_euro(content: bytes) -> tuple[str, int]:
    text = content.decode("gb18030", "surrogateescape").replace("\udc80", "\u20ac")
    return re.subn("[\udc81-\udcff]", "\ufffd", text)


def _faults(number: int) -> str:
    return f"; {number} byte{'s' if number > 1 else ''} of it could not be read" if number else ""
