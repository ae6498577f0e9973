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
CUED_REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "CH", "AT", "IN", "CN", "BR")
_SOME_DIGITS = re.compile(r"\d(?:[ ()./+-]{0,3}\d){6}")
_BEFORE, _AFTER = r"(?<![\w./+-])", r"(?![\w/-]|\.\d)"


@dataclass(frozen=True)
class Kind:
    """What a value looks like (its group `value`, else all of it), and a check that it is one."""

    pattern: re.Pattern[str]
    is_valid: Callable[[str], bool]


def personal_data(text: str) -> Counter[str]:
    """How many values of each kind (a key of `KINDS`) the text holds."""
    return redact(text)[1]


def redact(text: str) -> tuple[str, Counter[str]]:
    """The text with every value replaced by its kind in brackets, and how many of each there were.

    >>> redact("Write to jane.doe@example.org.")
    ('Write to [email].', Counter({'email': 1}))
    """
    counts: Counter[str] = Counter()
    while True:
        before = counts.total()
        for name, kind in _kinds_in(text).items():
            text = _replace(text, name, kind, counts)
        # What stood between two values may have hidden a third; each turn takes digits or an @ away.
        if counts.total() == before:
            return text, counts


def _kinds_in(text: str) -> dict[str, Kind]:
    """Without an @ there is no address, and with few digits nothing else."""
    has_digits = _SOME_DIGITS.search(text) is not None or "IBAN" in text
    return {n: k for n, k in KINDS.items() if ("@" in text if n == "email" else has_digits or n in _LETTERED)}


def _replace(text: str, name: str, kind: Kind, counts: Counter[str]) -> str:
    def put(match: re.Match[str]) -> str:
        group = "value" if "value" in match.re.groupindex else 0
        if not kind.is_valid(match[group]):
            return match[0]
        counts[name] += 1
        start, end = (i - match.start() for i in match.span(group))
        return f"{match[0][:start]}[{name}]{match[0][end:]}"

    return kind.pattern.sub(put, text)


def _stdnum(module: str) -> Callable[[str], bool]:
    """A check of python-stdnum by module name, imported when it is first asked."""
    return lambda value: bool(import_module(f"stdnum.{module}").is_valid(value))


def _is_card(value: str) -> bool:
    digits = re.sub(r"\D", "", value)
    return digits[0] in "3456" and len(set(digits)) > 3 and _stdnum("luhn")(digits)


def _is_phone(value: str) -> bool:
    return any(_is_phone_in(value, region) for region in (["US"] if value.lstrip()[0] != "+" else [None]))


def _is_cued_phone(value: str) -> bool:
    return any(_is_phone_in(value, region) for region in CUED_REGIONS)


def _is_phone_in(value: str, region: str | None) -> bool:
    from phonenumbers import NumberParseException, is_valid_number, parse

    try:
        return is_valid_number(parse(value, region))
    except NumberParseException:
        return False


def _shape(pattern: str, flags: int = 0) -> re.Pattern[str]:
    return re.compile(_BEFORE + pattern + _AFTER, flags)


def _after(cue: str, pattern: str) -> re.Pattern[str]:
    """The pattern within a few characters of the words that name it."""
    return re.compile(rf"\b(?:{cue})\b[^\d\n]{{0,20}}?(?<![\w])(?P<value>{pattern}){_AFTER}", re.IGNORECASE)


_PHONE_CUE = "tel|telephone|phone|fax|mobile|cell|call|telefon|handy|mobil|tél|téléphone|teléfono|telefono|电话|電話"
_LETTERED = ("es_dni", "it_codice_fiscale")

# In the order in which they are looked for: what is longer and surer first.
KINDS: dict[str, Kind] = {
    "email": Kind(re.compile(r"(?<![\w.+-])[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}\b"), lambda _: True),
    "iban": Kind(_shape(r"[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?"), _stdnum("iban")),
    "credit_card": Kind(
        _shape(r"(?:\d{4}(?P<gap>[ -]?)\d{4}(?P=gap)\d{4}(?P=gap)\d{4}|3\d{3}[ -]?\d{6}[ -]?\d{5})"), _is_card
    ),
    "us_ssn": Kind(_shape(r"\d{3}-\d{2}-\d{4}"), _stdnum("us.ssn")),
    "br_cpf": Kind(_shape(r"\d{3}\.\d{3}\.\d{3}-\d{2}"), _stdnum("br.cpf")),
    "cn_identity": Kind(_shape(r"\d{17}[\dX]"), _stdnum("cn.ric")),
    "fr_nir": Kind(_shape(r"[12] ?\d{2} ?\d{2} ?\d[\dAB] ?\d{3} ?\d{3} ?\d{2}"), _stdnum("fr.nir")),
    "it_codice_fiscale": Kind(_shape(r"[A-Z]{6}\d{2}[A-EHLMPR-T]\d{2}[A-Z]\d{3}[A-Z]"), _stdnum("it.codicefiscale")),
    "es_dni": Kind(_shape(r"\d{8}-?[A-HJ-NP-TV-Z]"), _stdnum("es.dni")),
    "gb_nhs": Kind(_after("NHS", r"\d{3}[ -]?\d{3}[ -]?\d{4}"), _stdnum("gb.nhs")),
    "in_aadhaar": Kind(_after("aadhaar", r"\d{4}[ -]?\d{4}[ -]?\d{4}"), _stdnum("in_.aadhaar")),
    "nl_bsn": Kind(_after("BSN|burgerservicenummer", r"\d{9}"), _stdnum("nl.bsn")),
    "de_tax_id": Kind(
        _after("IdNr|Steuer-?ID|Identifikationsnummer", r"\d{2} ?\d{3} ?\d{3} ?\d{3}"), _stdnum("de.idnr")
    ),
    "pl_pesel": Kind(_after("PESEL", r"\d{11}"), _stdnum("pl.pesel")),
    "phone": Kind(
        _shape(r"(?:\+\d(?:[ ()./-]{0,2}\d){6,14}|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[.-]\d{4})"), _is_phone
    ),
    "named_phone": Kind(_after(_PHONE_CUE, r"\+?\(?\d(?:[ ()./-]{0,2}\d){6,14}"), _is_cued_phone),
}
