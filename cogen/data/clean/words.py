"""Characters and words, in any script."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from cogen.data.clean.scripts import UNSPACED

# Zero-width joiners stay: Persian, Hindi and emoji need them. Form feeds stay: they separate pages.
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\x80-\x84\x86-\x9f\u200b\u2060\ufeff\ufffe\uffff]")
_LINE_END = re.compile("\r\n|\r|\x85|\u2028|\u2029")


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
    """Runs of letters and digits with their marks; in scripts without spaces each letter is one.

    A vowel sign, an accent or a zero-width joiner never divides a word. Tibetan syllables are words.

    >>> split_words("Grid-wide: 50 Hz, 電力")
    ['Grid', 'wide', '50', 'Hz', '電', '力']
    >>> len(split_words("मलयालम की हिन्दी"))
    3
    """
    return _word().findall(text)


@cache
def _word() -> re.Pattern[str]:
    marks = "".join(c for c in map(chr, range(0x300, 0x1F000)) if unicodedata.category(c).startswith("M"))
    spaced = rf"[^\W{UNSPACED}]"
    # A mark that follows no letter begins no word.
    return re.compile(rf"(?=\w)[{UNSPACED}][{marks}]*|{spaced}(?:{spaced}|[{marks}\u200c\u200d])*")
