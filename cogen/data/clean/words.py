"""Characters and words, in any script."""

from __future__ import annotations

import re
import unicodedata

# Zero-width joiners stay: Persian, Hindi and emoji need them. Form feeds stay: they separate pages.
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\x80-\x84\x86-\x9f\u200b\u2060\ufeff\ufffe\uffff]")
_LINE_END = re.compile("\r\n|\r|\x85|\u2028|\u2029")
# Scripts without spaces between words: Thai to Myanmar, Khmer, kana, Han.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
_UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")
UNSPACED_FRAC = 0.3


def normalise(text: str) -> tuple[str, int]:
    """The text in NFC with line feeds as line ends, and how many invisible characters were removed.

    Removed: control characters (C0, C1) except tab, line feed and form feed; zero-width space, word joiner,
    byte order mark, noncharacters. Line ends that become a line feed are not counted.

    >>> normalise("cafe\\u0301\\r\\n\\x00ok")
    ('café\\nok', 1)
    """
    text, removed = _INVISIBLE.subn("", _LINE_END.sub("\n", text))
    # NFC creates no character that is removed above, so a second pass changes nothing.
    return unicodedata.normalize("NFC", text), removed


def split_words(text: str) -> list[str]:
    """Runs of letters and digits; in scripts without spaces each character is one.

    >>> split_words("Grid-wide: 50 Hz, 電力")
    ['Grid', 'wide', '50', 'Hz', '電', '力']
    """
    return _WORD.findall(text)


def is_unspaced(text: str) -> bool:
    """Whether the text, by its first 2000 characters, is mostly in a script without spaces between words."""
    start = text[:2000]
    return len(_UNSPACED_CHARACTER.findall(start)) > UNSPACED_FRAC * max(1, len("".join(start.split())))
