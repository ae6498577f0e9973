"""Characters of Word's symbol fonts, which keep their own signs at the places of other characters."""

from __future__ import annotations

# Adobe's Symbol encoding, from 0x20 and from 0xA0; a space where there is no sign.
_SYMBOL_LOW = (
    " !\u2200#\u2203%&\u220b()\u2217+,\u2212./0123456789:;<=>?\u2245\u0391\u0392\u03a7\u0394\u0395\u03a6\u0393\u0397"
    "\u0399\u03d1\u039a\u039b\u039c\u039d\u039f\u03a0\u0398\u03a1\u03a3\u03a4\u03a5\u03c2\u03a9\u039e\u03a8\u0396["
    "\u2234]\u22a5_\u203e\u03b1\u03b2\u03c7\u03b4\u03b5\u03c6\u03b3\u03b7\u03b9\u03d5\u03ba\u03bb\u03bc\u03bd\u03bf"
    "\u03c0\u03b8\u03c1\u03c3\u03c4\u03c5\u03d6\u03c9\u03be\u03c8\u03b6{|}\u223c"
)
_SYMBOL_HIGH = (
    "\u20ac\u03d2\u2032\u2264\u2044\u221e\u0192\u2663\u2666\u2665\u2660\u2194\u2190\u2191\u2192\u2193\u00b0\u00b1"
    "\u2033\u2265\u00d7\u221d\u2202\u2022\u00f7\u2260\u2261\u2248\u2026\u23d0\u23af\u21b5\u2135\u2111\u211c\u2118"
    "\u2297\u2295\u2205\u2229\u222a\u2283\u2287\u2284\u2282\u2286\u2208\u2209\u2220\u2207\u00ae\u00a9\u2122\u220f"
    "\u221a\u22c5\u00ac\u2227\u2228\u21d4\u21d0\u21d1\u21d2\u21d3\u25ca\u2329\u00ae\u00a9\u2122\u2211\u239b\u239c"
    "\u239d\u23a1\u23a2\u23a3\u23a7\u23a8\u23a9\u23aa \u232a\u222b\u2320\u23ae\u2321\u239e\u239f\u23a0\u23a4\u23a5"
    "\u23a6\u23ab\u23ac\u23ad"
)
_WINGDINGS = {0xA8: "\u2610", 0x6F: "\u2610", 0x71: "\u2610", 0xFE: "\u2611", 0xFD: "\u2612", 0x78: "\u2612"}
_WINGDINGS |= {0xFC: "\u2713", 0xFB: "\u2717", 0xE0: "\u2192", 0xDF: "\u2190", 0xE1: "\u2191", 0xE2: "\u2193"}
_WINGDINGS |= {0xE8: "\u2794", 0xF0: "\u21e8", 0xA7: "\u25aa", 0x6C: "\u25cf", 0x6E: "\u25a0", 0x4A: "\u263a"}
_WINGDINGS2 = {0x50: "\u2713", 0x4F: "\u2717", 0x52: "\u2611", 0x51: "\u2612", 0x53: "\u2612", 0x54: "\u2612"}
_WINGDINGS2 |= {0xA3: "\u2610", 0x2A: "\u2610"}
_OWN_ZONE = range(0xF000, 0xF100)  # where Word writes the characters of such fonts


def symbol(font: str, code: str) -> str:
    """The character of `w:sym`; empty if it is not known."""
    try:
        number = int(code, 16)
    except ValueError:
        return ""
    if number not in _OWN_ZONE and number > 0xFF:
        is_character = number < 0xD800 or 0xDFFF < number < 0xE000 or 0xF8FF < number < 0x110000
        return chr(number) if is_character else ""
    return _of_font(font, number & 0xFF)


def symbols_of(text: str, font: str) -> str:
    """`text` of a run with the signs that a reader sees, if its font is one of symbols."""
    if font.lower() not in ("symbol", "wingdings", "wingdings 2") or not text:
        return text
    codes = [ord(c) - 0xF000 if ord(c) in _OWN_ZONE else ord(c) for c in text]
    return "".join((_of_font(font, n) if n < 0x100 else "") or c for c, n in zip(text, codes, strict=True))


def _of_font(font: str, number: int) -> str:
    if font.lower() == "symbol":
        table, place = (_SYMBOL_LOW, number - 0x20) if number < 0xA0 else (_SYMBOL_HIGH, number - 0xA0)
        return table[place].strip() if 0 < place < len(table) else ""
    if font.lower() in ("wingdings", "wingdings 2"):
        return (_WINGDINGS2 if font.endswith("2") else _WINGDINGS).get(number, "")
    return chr(number) if number >= 0x20 and not 0x7F <= number < 0xA0 else ""
