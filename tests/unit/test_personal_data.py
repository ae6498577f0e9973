"""Personal data: what is found, what only resembles it, and that no value is stored."""

from __future__ import annotations

import pytest

from cogen.data.clean import personal_data, redact

FOUND = {
    "email": ["Write to a.b+c@mail.example.co.uk.", "jürgen@müller.de", "<o'neil_7@x-y.org>"],
    "iban": ["IBAN DE89 3704 0044 0532 0130 00.", "GB82WEST12345698765432"],
    "credit_card": ["4111 1111 1111 1111", "card 5500-0000-0000-0004,", "378282246310005"],
    "us_ssn": ["SSN 536-90-4399"],
    "br_cpf": ["CPF 529.982.247-25"],
    "cn_identity": ["身份证 11010519491231002X"],
    "fr_nir": ["2 55 08 14 168 025 38", "255081416802538"],
    "it_codice_fiscale": ["C.F. RSSMRA85T10A562S"],
    "es_dni": ["DNI 12345678Z"],
    "gb_nhs": ["NHS number: 943 476 5919", "(NHS no. 9434765919)"],
    "in_aadhaar": ["Aadhaar: 2341 2341 2346"],
    "nl_bsn": ["BSN 111222333"],
    "de_tax_id": ["IdNr. 86 095 742 719"],
    "pl_pesel": ["PESEL: 44051401359"],
    "phone": [
        "+44 20 7946 0958",
        "+1 (202) 555-0143",
        "(415) 867-5309",
        "ring 212-555-1234 now",
        "1-800-356-9377",
        "Tel.: 030 901820",
        "call 01632 960983 or come",
        "Telefon: 089/21800",
        "phone 9876543210",
        "fax number 01.42.68.53.00",
        "电话：010-62781234",
    ],
}
NOT_PERSONAL = [
    "2024-01-15 12:30:45",
    "from 1990-1995 to 2001-2010",
    "10.1234/555-123-4567",
    "doi:10.1016/j.cell.2019.01.001",
    "12 345 678 901 kWh",
    "0.0012345678 and 3.14159265358979",
    "1 2 3 4 5 6 7 8 9 10 11 12",
    "50.000 60.000 70.000 80.000",
    "ISBN 978-3-16-148410-0",
    "192.168.100.200",
    "1234 5678 9012 3456",  # fails Luhn
    "4111111111111112",  # fails Luhn
    "1234 5678 9012 3452",  # passes it, but no card begins with a 1
    "0000 0000 0000 0000",
    "DE89 3704 0044 0532 0130 01",  # fails the checksum of IBAN
    "000-12-3456",  # no such area
    "529.982.247-26",  # fails its check digits
    "943 476 5919",  # NHS is not named
    "111222333 units",  # nor is BSN
    "NHS number: 943 476 5918",
    "part 12345678A",
    "212 555 1234",
    "212-555-1234-99",
    "+12 345 of 6789",
    "123-456-7890",  # no such area code
    "cell 12.5 13.5 14.5 mm",
    "mobile 2.5 3.5 4.5 5.5 6.5",
    "tel aviv 1948 1967 1973",
    "cell culture 1000000 cells",
    "call 1999 or 2000",
    "134515008 parameters, 49152 tokens",
    "logo@2x.png and x@y and @name",
    "Rev 415.867.5309",
]


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FOUND.items() for text in texts])
def test_values_are_found_by_kind(kind: str, text: str) -> None:
    redacted, counts = redact(text)
    assert counts == {kind: 1} == personal_data(text)
    assert f"[{kind}]" in redacted and sum(map(str.isdigit, redacted)) == 0


@pytest.mark.parametrize("text", NOT_PERSONAL)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert redact(text) == (text, {})


def test_a_redacted_text_keeps_the_rest() -> None:
    text = "Dr Lee (lee@clinic.example, tel. 212-555-1234) saw the patient, SSN 536-90-4399, on 2024-01-15.\n"
    redacted, counts = redact(text)
    assert redacted == "Dr Lee ([email], tel. [phone]) saw the patient, SSN [us_ssn], on 2024-01-15.\n"
    assert counts == {"email": 1, "phone": 1, "us_ssn": 1}


def test_a_table_of_measurements_is_left_alone() -> None:
    rows = "\n".join(f"{n}  {n * 13.7:.2f}  {n * 1234567}  {2000 + n}  {n * 0.001:.4f}" for n in range(1, 200))
    assert personal_data(rows) == {}


def test_a_long_line_of_digits_or_letters_takes_no_time_to_speak_of() -> None:
    """Patterns that went back over their text would not end here."""
    for piece in ("1 ", "a.", "12-", "AB12 ", "+1", "tel "):
        assert redact(piece * 20_000)[1].total() == 0
    assert redact("a" * 100_000 + "@")[1].total() == 0
