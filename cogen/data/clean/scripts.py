"""How scripts write words: what the quality rules may ask of a text in each.

The bounds on the mean word length are counted in characters with their marks and punctuation, as Gopher
counts them. They are chosen by kind of script between what prose and what junk measures (`benchmarks/LOG.md`),
guided by the bounds that FineWeb2 set for about 1,900 languages (arXiv 2506.20920; `configs/` of its repository
at d0defb2): Finnish 3 to 14, German up to 15, Turkish up to 21, Yoruba from 1; Hindi 2 to 21, Malayalam and Tamil
4 to 37; Korean 1 to 6, most Ethiopic 1 to 7; Tibetan 1 to 23.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cache

# Characters of scripts without spaces between words, by blocks, as inside of a regular expression's class:
# Thai and Lao, Myanmar, Khmer, Tai Le to Tai Tham, Balinese, kana to Bopomofo, Han, Yi, Vai, Javanese.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\u3040-\u312f\u31a0-\u31bf"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\ua500-\ua63f\ua980-\ua9ff\uaa60-\uaadf\uf900-\ufaff"
    "\uff66-\uff9d\U00020000-\U0003ffff"
)
SAMPLE_CHARACTERS = 2000
# Share of the letters from which a script other than an alphabet decides: Japanese and Korean texts on
# technology hold many Latin letters, and a Latin word has more letters than theirs.
LEAST_SHARE = 0.3


@dataclass(frozen=True)
class Writing:
    """What a kind of script allows to measure.

    Args:
        name: for the card.
        word_length: bounds of the mean word length [characters], both allowed.
        letters_per_word: letters that say as much as an English word, for documents of few long words.
        short_line: a line of fewer characters is short; None where lines are not measured.
        has_spaces: whether words are divided; where they are not, each letter is taken as one.
    """

    name: str
    word_length: tuple[float, float]
    letters_per_word: float
    short_line: int | None
    has_spaces: bool = True


ALPHABET = Writing("alphabet", (2, 16), 5, 30)
VOWEL_SIGNS = Writing("vowel signs", (2, 30), 5, 30)
SYLLABLES = Writing("syllables", (1.5, 12), 2, 15)
DIVIDED_SYLLABLES = Writing("divided syllables", (1.5, 12), 2, None)
NO_SPACES = Writing("no spaces", (0, float("inf")), 1, None, has_spaces=False)

# By the first word of a character's Unicode name. Scripts that are not here are alphabets.
_KINDS = {
    SYLLABLES: "HANGUL ETHIOPIC CHEROKEE LISU",
    DIVIDED_SYLLABLES: "TIBETAN",
    VOWEL_SIGNS: "DEVANAGARI BENGALI GURMUKHI GUJARATI ORIYA TAMIL TELUGU KANNADA MALAYALAM SINHALA THAANA CANADIAN "
    "MEETEI OL CHAKMA SYLOTI LIMBU SUNDANESE LEPCHA",
    NO_SPACES: "CJK HIRAGANA KATAKANA KATAKANA-HIRAGANA BOPOMOFO THAI LAO KHMER MYANMAR YI VAI TAI NEW JAVANESE BALINESE",
}
WRITINGS: dict[str, Writing] = {script: kind for kind, scripts in _KINDS.items() for script in scripts.split()}
# What the name of a script is on the card, where the Unicode name of a letter begins otherwise.
_NAMES = {
    "CJK": "Han",
    "KATAKANA-HIRAGANA": "Katakana",
    "CANADIAN": "Canadian Aboriginal",
    "MEETEI": "Meetei Mayek",
    "NEW": "New Tai Lue",
    "OL": "Ol Chiki",
}
NO_SCRIPT = "no letters"


def script_of(text: str) -> tuple[str, Writing]:
    """The script that decides how words are measured, and its kind, by about 2000 characters from the whole text.

    That is the commonest one, unless another kind than an alphabet has 30% of the letters.

    >>> script_of("電網 (power grid)")[0], script_of("50.02")[0]
    ('Latin', 'no letters')
    >>> script_of("電網の周波数は50 Hz")[1].has_spaces
    False
    """
    step = max(1, len(text) // SAMPLE_CHARACTERS)
    counts = Counter(filter(None, map(_script, text[::step])))
    if not counts:
        return NO_SCRIPT, ALPHABET
    kinds: Counter[Writing] = Counter()
    for script, count in counts.items():
        kinds[WRITINGS.get(script, ALPHABET)] += count
    others = [(n, kind.name, kind) for kind, n in kinds.items() if kind is not ALPHABET]
    most, _, kind = max(others, default=(0, "", ALPHABET))
    if most < LEAST_SHARE * counts.total() and kinds[ALPHABET]:
        kind = ALPHABET
    script = max((n, script) for script, n in counts.items() if WRITINGS.get(script, ALPHABET) is kind)[1]
    return _NAMES.get(script, script.title()), kind


def writing_of(script: str) -> Writing:
    """The kind of a script by the name that `script_of` gives it."""
    names = {name: key for key, name in _NAMES.items()}
    return WRITINGS.get(names.get(script, script.upper()), ALPHABET)


@cache
def _script(character: str) -> str:
    """The first word of a letter's name, such as LATIN; empty for other characters."""
    if not character.isalpha():
        return ""
    words = unicodedata.name(character, "").replace("FULLWIDTH ", "").replace("HALFWIDTH ", "").split()
    return words[0] if words else ""
