"""Lines with numbers at the edges of documents and pages: a measurement stays, a page number goes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from cogen.data.clean import BoilerplateCounter, strip_boilerplate
from cogen.data.clean.page_numbers import read_page_numbers

WORDS = [
    "pump",
    "valve",
    "seal",
    "relay",
    "feeder",
    "filter",
    "tank",
    "gauge",
    "nurse",
    "bridge",
    "beam",
    "crack",
    "cable",
    "trench",
    "sensor",
    "boiler",
    "duct",
    "kiln",
]


def body(seed: int) -> str:
    """Two lines that no other document has."""
    rng = random.Random(seed)
    return "\n".join(f"The {' '.join(rng.choices(WORDS, k=12))} was seen." for _ in range(2))


def stripped(texts: list[str]) -> list[str]:
    counter = BoilerplateCounter()
    for text in texts:
        counter.add(text)
    repeated = counter.repeated()
    return [strip_boilerplate(text, repeated)[0] for text in texts]


ARABIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
DEVANAGARI = str.maketrans("0123456789", "०१२३४५६७८९")
MEASURED: dict[str, Callable[[int], str]] = {
    "blood pressure": lambda n: f"Blood pressure on admission was {90 + n} over {50 + n} mmHg.",
    "a decimal": lambda n: f"The potassium level was {2.5 + n / 10:.1f} mmol per litre that day.",
    "few values": lambda n: f"The dose was set to {5 * (n % 3 + 1)} mg to be taken daily.",
    "two values": lambda n: f"The Apgar score was {9 + n % 2} after five minutes.",
    "a recipe": lambda n: f"Bake it for {30 + n % 4 * 5} minutes at {160 + n % 3 * 20} degrees.",
    "a date": lambda n: f"Reviewed by the ward on {n % 28 + 1:02}.03.2024",
    "a date by month": lambda n: f"Reviewed by the ward on 2024-03-{n % 28 + 1:02}",
    "an id": lambda n: f"Serial number of the unit: A-{1000 + n}-X",
    "a table's row": lambda n: f"Voltage 1 | Voltage 2 | {220 + n % 5} | {230 + n % 7}",
    "a page of another book": lambda n: f"The incident is recorded on page {n + 1} of the ledger.",
    "a reference apart": lambda n: f"Dose in mg - {n % 4 + 1} - taken every day",
    "arabic digits": lambda n: f"كان ضغط الدم عند الدخول {90 + n}".translate(ARABIC),
    "devanagari digits": lambda n: f"भर्ती के समय रक्तचाप {90 + n} था".translate(DEVANAGARI),
    "percent": lambda n: f"The load of transformer two was {n % 5 * 20}% that day.",
}


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("line", MEASURED.values(), ids=MEASURED)
def test_a_line_with_numbers_that_differ_stays_in_every_document(line: Callable[[int], str], place: str) -> None:
    texts = [f"{line(n)}\n{body(n)}" if place == "first" else f"{body(n)}\n{line(n)}" for n in range(60)]
    assert stripped(texts) == texts


def test_units_that_differ_in_case_alone_are_different_lines() -> None:
    texts = [f"{body(n)}\nThe output that day was 5 {'mW' if n < 9 else 'MW'} in all." for n in range(18)]
    assert stripped(texts) == texts, "nine of each"


@pytest.mark.parametrize(
    "line",
    ["Form 12-345 of St Mary Hospital", "Printed at the ward on 12.03.2024", "Call 555 1234 day and night"],
)
def test_a_line_that_is_equal_with_its_numbers_goes(line: str) -> None:
    texts = [f"{line}\n{body(n)}\n{line}" for n in range(12)]
    assert stripped(texts) == [body(n) for n in range(12)]


def test_one_form_that_differs_in_a_tenth_still_goes() -> None:
    texts = [f"{body(n)}\nVersion {3 if n else 4} of the ward's form" for n in range(40)]
    assert stripped(texts) == [texts[0], *(body(n) for n in range(1, 40))]


def test_each_year_counts_for_itself() -> None:
    fifteen, nine = (
        [f"Copyright {2023 + n % 2} St Mary Hospital\n{body(n)}" for n in range(count)] for count in (30, 18)
    )
    assert stripped(fifteen) == [body(n) for n in range(30)] and stripped(nine) == nine


@pytest.mark.parametrize("number", ["Page {} of 12", "Seite {} von 12 Seiten im Ordner", "ACME Grid Manual | Page {}"])
def test_page_numbers_of_documents_that_are_pages(number: str) -> None:
    texts = [f"{body(n)}\n{number.format(n % 12 + 1)}" for n in range(36)]
    expected = texts if "Ordner" in number else [body(n) for n in range(36)]
    assert stripped(texts) == expected


def test_a_document_of_shared_lines_alone_stays() -> None:
    """Findings that many reports have: each report is the only one with its choice of them."""
    findings = [f"The {word} showed no defect at all." for word in WORDS[:8]]
    texts = list(map("\n".join, itertools.permutations(findings, 3)))
    assert len(set(texts)) == 336 and stripped(texts) == texts


# Of documents in pages.


def paged(foot: Callable[[int], str], count: int = 8, head: Callable[[int], str] = lambda n: "") -> str:
    return "\f".join(f"{head(n)}\n{body(n)}\n{foot(n)}".strip() for n in range(1, count + 1))


def kept_lines(text: str) -> list[str]:
    return [line for line in strip_boilerplate(text)[0].split("\n") if line]


BODY = [line for n in range(1, 9) for line in body(n).split("\n")]
ROMAN = ["", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii"]
NUMBERS: dict[str, Callable[[int], str]] = {
    "alone": lambda n: f"{n}",
    "from another one on": lambda n: f"{n + 117}",
    "dashes": lambda n: f"- {n} -",
    "long dashes": lambda n: f"— {n} —",
    "brackets": lambda n: f"[{n}]",
    "of": lambda n: f"Page {n} of 8",
    "slash": lambda n: f"{n} / 8",
    "word and slash": lambda n: f"Seite {n}/8",
    "short word": lambda n: f"p. {n}",
    "roman": lambda n: ROMAN[n],
    "roman in capitals": lambda n: f"- {ROMAN[n].upper()} -",
    "bar": lambda n: f"ACME Manual | {n}",
    "bar before": lambda n: f"{n} | ACME Manual",
    "two sides": lambda n: f"{n}   ACME Manual" if n % 2 else f"ACME Manual   {n}",
    "word and label": lambda n: f"ACME Grid Manual Page {n}",
    "word and bar": lambda n: f"Rev. 2.1 of 2023 | Page {n} of 8",
    "french": lambda n: f"Page {n} sur 8",
    "spanish": lambda n: f"Página {n} de 8",
    "polish": lambda n: f"Strona {n} z 8",
    "finnish": lambda n: f"Sivu {n} / 8",
    "hungarian": lambda n: f"{n}. oldal",
    "turkish": lambda n: f"{n}. sayfa",
    "russian": lambda n: f"Страница {n} из 8",
    "greek": lambda n: f"Σελίδα {n} από 8",
    "hebrew": lambda n: f"עמוד {n} מתוך 8",
    "arabic": lambda n: f"صفحة {n} من 8".translate(ARABIC),
    "arabic alone": lambda n: f"{n}".translate(ARABIC),
    "hindi": lambda n: f"पृष्ठ {n}".translate(DEVANAGARI),
    "thai": lambda n: f"หน้า {n}",
    "chinese": lambda n: f"第{n}页 共8页",
    "japanese": lambda n: f"{n}ページ",
    "korean": lambda n: f"{n} 쪽",
    "vietnamese": lambda n: f"Trang {n}/8",
    "restarted": lambda n: f"{(n - 1) % 4 + 1}",
    "letters of two pages": lambda n: f"Page {(n - 1) % 2 + 1} of 2",
}


@pytest.mark.parametrize("place", ["head", "foot"])
@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_a_page_number_goes_from_every_page(number: Callable[[int], str], place: str) -> None:
    text = paged(number) if place == "foot" else paged(lambda n: "", head=number)
    assert kept_lines(text) == BODY and strip_boilerplate(text)[1] == 8


def test_a_page_number_goes_from_behind_the_header_and_where_a_page_is_blank() -> None:
    text = "\f".join(f"Manual of the pump\n{n}\n{body(n) if n != 4 else ''}" for n in range(1, 9))
    assert kept_lines(text) == [line for n in range(1, 9) if n != 4 for line in body(n).split("\n")]


VALUES = (0, 12, 9, 14, 14, 3, 7, 22, 11)
FIGURES: dict[str, Callable[[int], str]] = {
    "a bare figure": lambda n: f"{VALUES[n]}",
    "two figures": lambda n: f"{VALUES[n]} {VALUES[-n]}",
    "a fraction": lambda n: f"{VALUES[n]} / {VALUES[-n]}",
    "a laboratory value": lambda n: f"Potassium {3.5 + VALUES[n] / 10:.1f} mmol/l",
    "a value that grows": lambda n: f"Potassium 4.{n} mmol/l",
    "a date": lambda n: f"Reviewed on {VALUES[n]:02}.03.2024",
    "a date that grows": lambda n: f"{n:02}.03.2024",
    "a patient": lambda n: f"Patient {n}",
    "a patient with a word more": lambda n: f"Report on patient {n}",
    "a patient apart": lambda n: f"Patient | {n}",
    "a bed": lambda n: f"Bed {n}: normal diet",
    "a table's row": lambda n: f"| {n} | ACME Manual |",
    "two of a kind": lambda n: f"Dose {5 if n < 5 else 10} mg",
    "seconds": lambda n: f"{VALUES[n]} s.",
    "percent": lambda n: f"{n} %",
    "a list": lambda n: f"{n}. Open the valve.",
    "arabic digits": lambda n: f"{VALUES[n]}".translate(ARABIC),
    "a chapter": lambda n: f"Chapter {n}",
    "a page of another book": lambda n: f"See the ledger on page {VALUES[n]}",
    "backwards": lambda n: f"{9 - n}",
    "by tens": lambda n: f"{10 * n}",
}


@pytest.mark.parametrize("place", ["head", "foot"])
@pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)
def test_a_figure_stays_on_every_page(figure: Callable[[int], str], place: str) -> None:
    text = paged(figure) if place == "foot" else paged(lambda n: "", head=figure)
    assert strip_boilerplate(text)[1] == 0
    assert sorted(kept_lines(text)) == sorted([*BODY, *(figure(n) for n in range(1, 9))])


def test_a_figure_that_is_equal_to_the_page_number_goes_once() -> None:
    """On page 3 the last row of the table is 3 too."""
    text = paged(lambda n: f"{VALUES[n] if n != 3 else 3}\n{n}")
    assert kept_lines(text)[8] == "3" and strip_boilerplate(text)[1] == 8


def test_equal_lines_go_with_their_numbers() -> None:
    text = paged(lambda n: "Form 12-345, edition 7")
    assert kept_lines(text) == BODY


@pytest.mark.parametrize(
    ("line", "number"), [("xiv", 14), ("XL", 40), ("- lxxxix -", 89), ("٣", 3), ("p. ix", 9), ("第12頁", 12)]
)
def test_values_of_page_numbers(line: str, number: int) -> None:
    assert [one.number for one in read_page_numbers(line)] == [number]


@pytest.mark.parametrize(
    "line", ["mix", "iiii", "12345", "4.1", "3 mg", "A3", "x" * 500, "1 " * 99, " " * 5000 + "page"]
)
def test_lines_that_are_no_page_numbers(line: str) -> None:
    assert not list(read_page_numbers(line))
