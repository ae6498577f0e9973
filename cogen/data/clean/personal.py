"""Personal data in text: found by shape, then by checksum or numbering plan; values are never kept.

A measure, a year, a DOI or a column of numbers has the shape of many identity numbers. So a kind without
a strong checksum counts only where its name stands before it, as in "NHS number 943 476 5919".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

# Numbers without a country's code are tried in these, after a word such as "tel.".
CUED_REGIONS = ("US", "ES", "IN", "GB", "DE", "FR", "IT", "NL", "CH", "AT", "CN", "BR")
NUM_WITHOUT_ZERO = 3  # of these, the first: numbers begin without a 0
_SOME_DIGITS = re.compile(r"\d(?:[ ()./+-]{0,3}\d){6}")
IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp")  # as in logo@2x.png
LETTERED = "it_codice_fiscale"
_BEFORE, _AFTER = r"(?<![\w./+-])", r"(?![\w/-]|\.\d)"


@dataclass(frozen=True)
class Kind:
    """The pattern of a value (its group `value`, or the whole match), and a check that confirms it."""

    name: str
    pattern: re.Pattern[str]
    is_valid: Callable[[str], bool]


def personal_data(text: str) -> Counter[str]:
    """How many values of each kind (a name in `KINDS`) are in the text."""
    return redact(text)[1]


def redact(text: str) -> tuple[str, Counter[str]]:
    """The text with every value replaced by its kind in brackets, and how many of each there were.

    >>> redact("Write to jane.doe@example.org.")
    ('Write to [email].', Counter({'email': 1}))
    """
    counts: Counter[str] = Counter()
    while True:
        before = counts.total()
        for kind in _kinds_in(text):
            text = _replace(text, kind, counts)
        # Text between two values may have hidden a third; each pass removes digits or an @, so this ends.
        if counts.total() == before:
            return text, counts


def personal_spans(text: str) -> list[tuple[str, int, int]]:
    """Kind, start and end of every value in the text, in order; of two that overlap the more certain kind."""
    found: list[tuple[str, int, int]] = []
    for kind in _kinds_in(text):
        for match in kind.pattern.finditer(text):
            start, end = match.span(_group(kind))
            if kind.is_valid(text[start:end]) and all(end <= a or b <= start for _, a, b in found):
                found.append((kind.name, start, end))
    return sorted(found, key=lambda span: span[1])


def _group(kind: Kind) -> int | str:
    """The group of the pattern that holds the value."""
    return "value" if "value" in kind.pattern.groupindex else 0


def _kinds_in(text: str) -> list[Kind]:
    """The kinds that can occur: without an @ there is no address, and with few digits no number."""
    has_digits = _SOME_DIGITS.search(text) is not None
    return [k for k in KINDS if ("@" in text if k.name == "email" else has_digits or k.name == LETTERED)]


def _replace(text: str, kind: Kind, counts: Counter[str]) -> str:
    def put(match: re.Match[str]) -> str:
        group = _group(kind)
        if not kind.is_valid(match[group]):
            return match[0]
        counts[kind.name] += 1
        start, end = (i - match.start() for i in match.span(group))
        return f"{match[0][:start]}[{kind.name}]{match[0][end:]}"

    return kind.pattern.sub(put, text)


def _stdnum(module: str) -> Callable[[str], bool]:
    """A check of python-stdnum by module name, imported when it is first asked."""
    return lambda value: bool(import_module(f"stdnum.{module}").is_valid(value))


def _is_card(value: str) -> bool:
    digits = re.sub(r"\D", "", value)
    return digits[0] in "3456" and len(set(digits)) > 1 and _stdnum("luhn")(digits)


def _is_phone(value: str) -> bool:
    return _is_phone_in(value, None if value.startswith("+") else "US")


def _is_cued_phone(value: str) -> bool:
    regions = CUED_REGIONS if value[0] in "+(0" else CUED_REGIONS[:NUM_WITHOUT_ZERO]
    return any(_is_phone_in(value, region) for region in regions)


def _is_phone_in(value: str, region: str | None) -> bool:
    from phonenumbers import NumberParseException, is_valid_number, parse

    try:
        return is_valid_number(parse(value, region))
    except NumberParseException:
        return False


def _shape(pattern: str, flags: int = 0) -> re.Pattern[str]:
    return re.compile(_BEFORE + pattern + _AFTER, flags)


def _after(cue: str, pattern: str) -> re.Pattern[str]:
    """The pattern right after the words that name it, as in `NHS no.: 943 476 5919`."""
    filler = r"(?:\W{0,3}\b(?:number|no|nr|nummer|at|on|is|us))*\W{0,4}?"
    return re.compile(rf"(?<![\w./])(?:{cue})\b{filler}(?<!\w)(?P<value>{pattern}){_AFTER}", re.IGNORECASE)


_PHONE_CUE = "tel|telephone|phone|fax|mobile|cell|call|telefon|handy|mobil|tél|téléphone|teléfono|telefono|电话|電話"

# In the order of the search: longer and more certain kinds first.
KINDS: tuple[Kind, ...] = (
    Kind(
        "email",
        re.compile(r"(?<![\w.+-])[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}\b"),
        lambda value: not value.endswith(IMAGES),
    ),
    Kind("iban", _shape(r"[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?"), _stdnum("iban")),
    Kind(
        "credit_card",
        _shape(r"(?:\d{4}(?P<gap>[ -]?)\d{4}(?P=gap)\d{4}(?P=gap)\d{4}|3\d{3}[ -]?\d{6}[ -]?\d{5})"),
        _is_card,
    ),
    Kind("us_ssn", _shape(r"\d{3}-\d{2}-\d{4}"), _stdnum("us.ssn")),
    Kind("br_cpf", _shape(r"\d{3}\.\d{3}\.\d{3}-\d{2}"), _stdnum("br.cpf")),
    Kind("cn_identity", _shape(r"\d{17}[\dX]"), _stdnum("cn.ric")),
    Kind("fr_nir", _shape(r"[12] ?\d{2} ?\d{2} ?\d[\dAB] ?\d{3} ?\d{3} ?\d{2}"), _stdnum("fr.nir")),
    Kind("it_codice_fiscale", _shape(r"[A-Z]{6}\d{2}[A-EHLMPR-T]\d{2}[A-Z]\d{3}[A-Z]"), _stdnum("it.codicefiscale")),
    Kind("es_dni", _shape(r"\d{8}-?[A-HJ-NP-TV-Z]"), _stdnum("es.dni")),
    Kind("gb_nhs", _after("NHS", r"\d{3}[ -]?\d{3}[ -]?\d{4}"), _stdnum("gb.nhs")),
    Kind("in_aadhaar", _after("aadhaar", r"\d{4}[ -]?\d{4}[ -]?\d{4}"), _stdnum("in_.aadhaar")),
    Kind("nl_bsn", _after("BSN|burgerservicenummer", r"\d{9}"), _stdnum("nl.bsn")),
    Kind(
        "de_tax_id", _after("IdNr|Steuer-?ID|Identifikationsnummer", r"\d{2} ?\d{3} ?\d{3} ?\d{3}"), _stdnum("de.idnr")
    ),
    Kind("pl_pesel", _after("PESEL", r"\d{11}"), _stdnum("pl.pesel")),
    Kind(
        "phone",
        _shape(r"(?:\+\d(?:[ ()./-]{0,2}\d){6,14}|(?:1[ -])?(?:\(\d{3}\) ?|\d{3}[ -])\d{3}-\d{4})"),
        _is_phone,
    ),
    Kind("phone", _after(_PHONE_CUE, r"\+?\(?\d(?:[ ()/-]{0,2}\d){6,14}|\d{2,4}(?:\.\d{2,4}){2,4}"), _is_cued_phone),
)
