"""Words, in any script."""

from __future__ import annotations

import re

# Scripts that set no spaces between words: Thai to Myanmar, Khmer, kana, Han.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
_UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")
UNSPACED_FRAC = 0.3


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
