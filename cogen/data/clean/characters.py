"""One way to write each character: NFC, line feeds, nothing invisible that says nothing."""

from __future__ import annotations

import re
import unicodedata

# Zero-width joiners stay: Persian, Hindi and emoji need them. Form feeds stay: they part pages.
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\x80-\x84\x86-\x9f\u200b\u2060\ufeff\ufffe\uffff]")
_LINE_END = re.compile("\r\n|\r|\x85|\u2028|\u2029")


def normalise(text: str) -> tuple[str, int]:
    """The text in NFC with line feeds as line ends, and how many invisible characters were removed.

    Removed: control characters (C0, C1) but tab, line feed and form feed; zero-width space, word joiner,
    byte order mark, noncharacters. Line ends that become a line feed are not counted.

    >>> normalise("cafe\\u0301\\r\\n\\x00ok")
    ('café\\nok', 1)
    """
    text, removed = _INVISIBLE.subn("", _LINE_END.sub("\n", text))
    # Of what is left, NFC makes no character that is removed above: doing it again changes nothing.
    return unicodedata.normalize("NFC", text), removed
