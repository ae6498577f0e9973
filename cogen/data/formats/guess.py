"""A guess at the encoding of a page that declares none."""

from __future__ import annotations

import re

from cogen.data.formats.extra import needs

SAMPLE_BYTES = 1 << 13
_MARKUP = re.compile(rb"<[^<>]*>")
# Bytes that are letters in ISO-8859-2 and signs in Windows-1250, between letters: `wart\xb6ci`.
_LATIN_2 = re.compile(rb"[a-z\xe0-\xff][\xb1\xb5\xb6][a-z\xe0-\xff]")
_SHIFTED = ((b"\x1b$)C", "ISO-2022-KR"), (b"\x1b$", "ISO-2022-JP"), (b"\x1b(J", "ISO-2022-JP"))


def guessed(content: bytes) -> str:
    """The most likely encoding, by its name in the Encoding Standard; Windows-1252 where nothing else is."""
    from cogen.data.formats.encodings import encoding_of

    for escape, name in _SHIFTED:
        if escape in content:
            return name
    if _is_cut_utf8(content):
        return "UTF-8"
    with needs("chardet", ".html"):
        import chardet
    bare = b"\n".join(
        line for line in _MARKUP.sub(b" ", content[: 64 * SAMPLE_BYTES]).splitlines() if not line.isascii()
    )
    found = str(chardet.detect(bare[:SAMPLE_BYTES])["encoding"] or "").lower()
    name = encoding_of(found) or {"cp874": "windows-874", "cp949": "EUC-KR", "cp932": "Shift_JIS"}.get(found, "")
    if name == "windows-1250" and len(_LATIN_2.findall(bare)) > 0 and not re.search(rb"[\x80-\x9f]", bare):
        return "ISO-8859-2"
    return name or "windows-1252"


def _is_cut_utf8(content: bytes) -> bool:
    """Whether it is UTF-8, but for a few faults."""
    text = content.decode("utf-8", "replace")
    num_wide = sum(not c.isascii() for c in text) if not text.isascii() else 0
    return 10 * text.count("\ufffd") <= num_wide
